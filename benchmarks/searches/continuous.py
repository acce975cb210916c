"""A search space with continuous ranges: a configuration is trained, by a plain loop, when a search asks for it.

Nothing can be shared or tabulated there. What counts as good is learned from a sample of random configurations, each
trained to its end.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from harness import search
from harness.data import Arrays
from harness.data.normalise import mean_and_std
from harness.experiment import Experiment
from harness.search import Hyperparameter
from harness.spec import load_spec

Pair = tuple[Tensor, Tensor]  # inputs and targets
SAMPLE = 1_000  # random configurations that say what is good


class Ranges:
    """Continuous ranges in place of the steps of a table. The scheduler's patience stays a whole number."""

    lr: float = search.log_uniform(1e-3, 1e-1, default=1e-2)
    momentum: float = search.uniform(0.8, 0.99, default=0.9)
    patience: int = search.integer(2, 10, default=6)
    factor: float = search.log_uniform(0.1, 0.5, default=0.1)


class Trained:
    """The configurations of a spec whose hyperparameters are those of `Ranges`, and a loss that is minimised."""

    def __init__(self, spec: Path, sample: np.ndarray) -> None:
        torch.set_num_threads(1)
        self._experiment = continuous(spec)
        self.searched = dict(self._experiment.hyperparameters)
        self.epochs = int(self._experiment.defaults()["epochs"])
        self._sample = np.sort(sample)
        self._points: list[dict[str, Any]] = []
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._curves: list[list[float]] = []
        self._runs: list[Iterator[float]] = []

    @property
    def best(self) -> float:
        return float(self._sample[0])

    def threshold(self, share: float) -> float:
        return float(self._sample[max(1, round(share * len(self._sample))) - 1])

    def find(self, values: Mapping[str, Any]) -> int:
        key = tuple(values[name] for name in self.searched)
        if key not in self._numbers:
            self._numbers[key] = len(self._runs)
            self._curves.append([])
            self._runs.append(train(self._experiment(**values)))
        return self._numbers[key]

    def length(self, point: int) -> int:
        return self.epochs

    def value(self, point: int, epoch: int) -> float:
        while len(self._curves[point]) <= epoch:
            self._curves[point].append(next(self._runs[point]))
        return self._curves[point][epoch]

    def mates(self, point: int, epoch: int) -> Sequence[int]:
        return [point]

    def shared(self, point: int, epochs: int) -> list[tuple[dict[str, Any], int]]:
        return []


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


def sampled(spec: Path, seed: int) -> float:
    """The best value of a random configuration."""
    land, chance = Trained(spec, np.zeros(1)), random.Random(f"sample/{seed}")
    point = land.find({name: found.draw(chance.random()) for name, found in land.searched.items()})
    return min(land.value(point, epoch) for epoch in range(land.epochs))
