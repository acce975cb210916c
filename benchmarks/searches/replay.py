"""Replays of searches: what counts is the number of epochs trained until a good configuration is found."""

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from harness.search import Hyperparameter
from harness.searching.space import Space
from harness.searching.tree import TreeSearch

LIMIT = 4_000  # epochs
MARKS = (100, 200, 400)  # epochs after which the regret is noted


class Landscape(Protocol):
    """What a search walks over: configurations by number, and their values after each epoch (lower is better)."""

    searched: dict[str, Hyperparameter]

    @property
    def epochs(self) -> int: ...
    def find(self, values: Mapping[str, Any]) -> int:
        """The number of the configuration with these values."""

    def length(self, point: int) -> int:
        """Epochs of a configuration; fewer than `epochs` where it ended early."""

    def value(self, point: int, epoch: int) -> float:
        """The value after an epoch, counted from 0; infinite from where the training diverged."""

    def mates(self, point: int, epoch: int) -> Sequence[int]:
        """The configurations of which this is the same epoch, itself included."""

    def shared(self, point: int, epochs: int) -> list[tuple[dict[str, Any], int]]:
        """Values of the configurations that share epochs with the first ones of this, and how many they share."""

    def threshold(self, share: float) -> float:
        """The value that this share of the configurations reaches at its best epoch."""

    @property
    def best(self) -> float:
        """The best value of all that are known."""


@dataclass
class Outcome:
    """What a search found, and when."""

    found: dict[float, int | None] = field(default_factory=lambda: {0.004: None, 0.01: None})  # epochs, by the share
    regret: dict[int, float] = field(default_factory=dict)  # by the epochs trained: above the best value


class Spent(Exception):
    """The replay is over: the limit is reached, or all that is asked is known."""


class Replay:
    """One search over a landscape; `shares` says whether an epoch that was trained once costs nothing the next time."""

    def __init__(self, land: Landscape, *, shares: bool) -> None:
        self.land, self.shares = land, shares
        self.known: dict[int, int] = defaultdict(int)  # epochs of each configuration
        self.trained, self.best = 0, np.inf
        self.outcome = Outcome()

    def train(self, point: int) -> float:
        """The next epoch of a configuration."""
        epoch = self.known[point]
        value = self.land.value(point, epoch)
        for mate in self.land.mates(point, epoch) if self.shares else [point]:
            self.known[mate] += 1
        self.trained += 1
        self.best = min(self.best, value)
        found = self.outcome.found
        for share, when in found.items():
            if when is None and value <= self.land.threshold(share):
                found[share] = self.trained
        if self.trained in MARKS:
            self.outcome.regret[self.trained] = self.best - self.land.best
        if self.trained >= LIMIT or (self.trained >= MARKS[-1] and None not in found.values()):
            raise Spent
        return value

    def train_until(self, point: int, epochs: int) -> list[float]:
        """Trains what is not known of the first epochs of a configuration; their values."""
        epochs = min(epochs, self.land.length(point))
        while self.known[point] < epochs:
            self.train(point)
        return [self.land.value(point, epoch) for epoch in range(self.known[point])]

    def begin(self, point: int) -> None:
        """A configuration from its first epoch on, as a loop trains it that keeps nothing."""
        self.known[point] = 0


Search = Callable[[Replay, int], None]  # the replay, and a seed


def replay(land: Landscape, search: Search, seed: int, *, shares: bool) -> Outcome:
    """Runs a search to its end."""
    made = Replay(land, shares=shares)
    try:
        search(made, seed)
    except Spent:
        pass
    return made.outcome


def tree(made: Replay, seed: int, *, to_end: bool = False) -> None:
    """The search of the harness, as `harness.searching` has it."""
    land = made.land
    space = Space(land.searched, seed=seed)
    search = TreeSearch(space, epochs=land.epochs, seed=seed)
    while (move := search.choose({}, to_end=to_end)) is not None:
        values = space.points[move.point]
        point = land.find(values)
        curve = made.train_until(point, move.until)
        shared = land.shared(point, len(curve)) if made.shares else []
        search.note(values, curve, shared, is_over=not np.isfinite(curve[-1]))


def tree_to_end(made: Replay, seed: int) -> None:
    """The same where each trial is trained to its end: `--trials N`."""
    tree(made, seed, to_end=True)


def asha(made: Replay, seed: int) -> None:
    """Asynchronous halving with promotion (Li et al., 2020), rungs 2, 6, 15 and 30 by 3, over random configurations."""
    land = made.land
    rungs = sorted({min(rung, land.epochs) for rung in (2, 6, 15, 30)})
    space = Space(land.searched, seed=seed)
    fresh = random.Random(seed).sample(range(len(space)), len(space))
    standing: list[dict[int, float]] = [{} for _ in rungs]
    promoted: list[set[int]] = [set() for _ in rungs]

    def next_move() -> tuple[int, int] | None:
        for place in reversed(range(len(rungs) - 1)):
            best = sorted(standing[place], key=standing[place].__getitem__)[: len(standing[place]) // 3]
            for point in best:
                if point not in promoted[place]:
                    promoted[place].add(point)
                    return point, place + 1
        return (land.find(space.points[fresh.pop()]), 0) if fresh else None

    while (move := next_move()) is not None:
        point, place = move
        standing[place][point] = min(made.train_until(point, rungs[place])[: rungs[place]])
