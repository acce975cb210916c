"""Tables of a whole search: the value of each configuration after each epoch, and which epochs they share.

A table is made by the harness itself: a sweep of the whole grid, in which what is shared is trained once. It is kept
as one file, so that searches can be replayed over it in seconds.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import harness
from harness.experiment import direction_of
from harness.search import Hyperparameter
from harness.spec import load_spec

SPECS = Path(__file__).parent.parent / "specs"


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """Every configuration of a stepped search space, trained to its end."""

    name: str
    searched: dict[str, Hyperparameter]
    points: list[dict[str, Any]]
    values: np.ndarray  # (configurations, epochs): lower is better; infinite from where it diverged
    nodes: np.ndarray  # (configurations, epochs): the number of the epoch in the tree; -1 where there is none

    @property
    def epochs(self) -> int:
        return int(self.values.shape[1])

    @cached_property
    def _numbers(self) -> dict[tuple[Any, ...], int]:
        return {tuple(point[name] for name in self.searched): number for number, point in enumerate(self.points)}

    def find(self, values: Mapping[str, Any]) -> int:
        """The number of the configuration with these values."""
        return self._numbers[tuple(values[name] for name in self.searched)]

    def length(self, point: int) -> int:
        """Epochs of a configuration."""
        return int((self.nodes[point] >= 0).sum())

    def value(self, point: int, epoch: int) -> float:
        """The value after an epoch, counted from 0."""
        return float(self.values[point, epoch])

    def mates(self, point: int, epoch: int) -> Sequence[int]:
        """The configurations of which this is the same epoch."""
        found: list[int] = np.flatnonzero(self.nodes[:, epoch] == self.nodes[point, epoch]).tolist()
        return found

    def shared(self, point: int, epochs: int) -> list[tuple[dict[str, Any], int]]:
        """The configurations with the same first epoch, and how many of the first epochs are the same."""
        mates = self.mates(point, 0)
        common = np.minimum.accumulate(self.nodes[mates, :epochs] == self.nodes[point, :epochs], axis=1).sum(1)
        return [(self.points[mate], int(count)) for mate, count in zip(mates, common, strict=True)]

    def threshold(self, share: float) -> float:
        """The value that this share of the configurations reaches at its best epoch."""
        return float(self._ranked[max(1, round(share * len(self._ranked))) - 1])

    @property
    def best(self) -> float:
        """The best value of all."""
        return float(self._ranked[0])

    @cached_property
    def _ranked(self) -> np.ndarray:
        return np.sort(self.values.min(1))


def make_table(name: str, spec: Path, folder: Path, *, jobs: int, trials: int | None = None) -> None:
    """Trains the whole grid of a spec, and keeps what came out in `folder/NAME.npz`."""
    store = folder / f"{name}-store"
    command = [sys.executable, "-m", "harness", "sweep", spec, "--store", store, "--jobs", jobs, "--no-register"]
    command += [] if trials is None else ["--trials", trials]
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL, env=os.environ)
    loaded = load_spec(spec)
    searched = loaded.experiment.hyperparameters
    defaults = loaded.experiment.defaults()
    sign = -1 if direction_of(defaults["objective"], defaults["direction"]) == "maximize" else 1
    runs = harness.runs(spec, store=store)
    points = [{n: row[n] for n in searched} for row in runs.to_dict("records")]
    values = np.full((len(points), defaults["epochs"]), np.inf)
    nodes = np.full(values.shape, -1)
    known: dict[tuple[Any, ...], int] = {}
    recipes = [record.recipe for record in _records(store, spec)]
    for index, run_id in enumerate(runs["run_id"]):
        history = harness.history(run_id, store=store)
        path: tuple[Any, ...] = (recipes[index],)
        for epoch, (value, rate) in enumerate(zip(history[defaults["objective"]], history["lr"], strict=True)):
            path = (*path, rate)
            nodes[index, epoch] = known.setdefault(path, len(known))
            values[index, epoch] = sign * value if np.isfinite(value) else np.inf
    np.savez_compressed(folder / f"{name}.npz", values=values, nodes=nodes, points=json.dumps(points))


def read_table(path: Path, spec: Path) -> Table:
    """A table from its file."""
    with np.load(path) as file:
        points = json.loads(str(file["points"]))
        values, nodes = file["values"], file["nodes"]
    searched = load_spec(spec).experiment.hyperparameters
    return Table(name=path.stem, searched=dict(searched), points=points, values=values, nodes=nodes)


def _records(store: Path, spec: Path) -> list[Any]:
    from harness.tracking.runs import list_runs
    from harness.tracking.store import Store

    return list_runs(Store(store), spec.stem)
