"""Tables of search spaces with continuous ranges: random configurations, each trained to its end by a plain loop.

A search may ask for any configuration there: it gets the curve of the nearest one that was trained. Nothing is shared.
"""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from harness import search
from harness.data import Arrays
from harness.data.normalise import mean_and_std
from harness.experiment import Experiment
from harness.search import Hyperparameter
from harness.spec import load_spec

Pair = tuple[Tensor, Tensor]  # inputs and targets
COUNT = 2_000  # configurations of a table


class Ranges:
    """Continuous ranges in place of the steps of a table. The scheduler's patience stays a whole number."""

    lr: float = search.log_uniform(1e-3, 1e-1, default=1e-2)
    momentum: float = search.uniform(0.8, 0.99, default=0.9)
    patience: int = search.integer(2, 10, default=6)
    factor: float = search.log_uniform(0.1, 0.5, default=0.1)


class Scattered:
    """The configurations of a table, of which the nearest one answers."""

    def __init__(self, path: Path, spec: Path) -> None:
        with np.load(path) as file:
            points, self._values = json.loads(str(file["points"])), file["values"]
        self.searched = dict(continuous(spec).hyperparameters)
        self._tree = KDTree([self._place(point) for point in points])
        self._ranked = np.sort(self._values.min(1))
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._nearest: list[int] = []  # by the number of a configuration that was asked for

    @property
    def epochs(self) -> int:
        return int(self._values.shape[1])

    @property
    def best(self) -> float:
        return float(self._ranked[0])

    def threshold(self, share: float) -> float:
        return float(self._ranked[max(1, round(share * len(self._ranked))) - 1])

    def find(self, values: Mapping[str, Any]) -> int:
        key = tuple(values[name] for name in self.searched)
        if key not in self._numbers:
            self._numbers[key] = len(self._nearest)
            self._nearest.append(int(self._tree.query(self._place(values))[1]))
        return self._numbers[key]

    def length(self, point: int) -> int:
        return self.epochs

    def value(self, point: int, epoch: int) -> float:
        return float(self._values[self._nearest[point], epoch])

    def mates(self, point: int, epoch: int) -> Sequence[int]:
        return [point]

    def shared(self, point: int, epochs: int) -> list[tuple[dict[str, Any], int]]:
        return []

    def _place(self, values: Mapping[str, Any]) -> list[float]:
        return [place for name, found in self.searched.items() for place in found.place(values[name])]


def random_point(spec: Path, seed: int) -> dict[str, Any]:
    """A configuration of a spec with the hyperparameters of `Ranges`."""
    chance = random.Random(f"point/{seed}")
    return {name: found.draw(chance.random()) for name, found in continuous(spec).hyperparameters.items()}


def curve_of(spec: Path, point: Mapping[str, Any]) -> list[float]:
    """The validation loss after each epoch of a configuration."""
    torch.set_num_threads(1)
    return list(train(continuous(spec)(**point)))


@cache
def continuous(spec: Path) -> type[Experiment]:
    """The experiment of a spec, with the hyperparameters of `Ranges`."""
    ranges = {name: found for name, found in vars(Ranges).items() if isinstance(found, Hyperparameter)}
    return type("Continuous", (load_spec(spec).experiment,), ranges)


@cache
def parts_of(experiment: type[Experiment]) -> tuple[Pair, Pair]:
    """The training and the validation part, normalised."""
    data = experiment().data()
    assert isinstance(data.train, Arrays) and isinstance(data.validation, Arrays)
    mean, std = mean_and_std(data.train.inputs)
    train, validation = (((part.inputs.float() - mean) / std, part.targets) for part in (data.train, data.validation))
    return train, validation


def train(experiment: Experiment) -> Iterator[float]:
    """The validation loss after each epoch; infinite from where it diverges."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(experiment.seed)
        model = experiment.model()
    optimizer = experiment.optimizer(model.parameters())
    scheduler = experiment.scheduler(optimizer)
    value = 0.0
    for epoch in range(experiment.epochs):
        if np.isfinite(value):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1_000 * experiment.seed + epoch)
                value = train_epoch(model, optimizer, *parts_of(type(experiment)), batch_size=experiment.batch_size)
            scheduler.step(value)
        yield value if np.isfinite(value) else np.inf


def train_epoch(model: nn.Module, optimizer: Any, train: Pair, validation: Pair, *, batch_size: int) -> float:
    """Trains an epoch; the validation loss after it."""
    model.train()
    inputs, targets = train
    for batch in torch.randperm(len(inputs)).split(batch_size):
        optimizer.zero_grad()
        cross_entropy(model(inputs[batch]), targets[batch]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.eval()
    with torch.no_grad():
        return cross_entropy(model(validation[0]), validation[1]).item()
