"""Replays of searches over a table: what counts is the number of epochs trained until a good configuration is found."""

import random
from collections.abc import Callable

import numpy as np

from harness.searching.space import Space
from harness.searching.tree import TreeSearch
from searches.tables import Table

LIMIT = 4_000  # epochs
MARKS = (100, 200, 400)  # epochs after which the regret is noted


class Spent(Exception):
    """The replay is over: the limit is reached, or all that is asked is known."""


class Replay:
    """One search over a table; `shares` says whether an epoch that was trained once costs nothing the next time."""

    def __init__(self, table: Table, *, shares: bool) -> None:
        self.table, self._shares = table, shares
        self.known = np.zeros(len(table.points), dtype=int)  # epochs of each configuration
        self.trained, self.best = 0, np.inf
        self.regret: dict[int, float] = {}
        self.found: dict[float, int | None] = {0.004: None, 0.01: None}

    def train(self, point: int) -> float:
        """The next epoch of a configuration."""
        epoch = self.known[point]
        node, value = self.table.nodes[point, epoch], float(self.table.values[point, epoch])
        mates = self.table.nodes[:, epoch] == node if self._shares else point
        self.known[mates] += 1
        self.trained += 1
        self.best = min(self.best, value)
        for share, when in self.found.items():
            if when is None and value <= self.table.threshold(share):
                self.found[share] = self.trained
        if self.trained in MARKS:
            self.regret[self.trained] = self.best - self.table.best
        if self.trained >= LIMIT or (self.trained >= MARKS[-1] and None not in self.found.values()):
            raise Spent
        return value

    def begin(self, point: int) -> None:
        """A configuration from its first epoch on, as a loop trains it that shares nothing."""
        self.known[point] = 0


Search = Callable[[Replay, int], None]  # the replay, and a seed


def replay(table: Table, search: Search, seed: int, *, shares: bool) -> Replay:
    """Runs a search to its end."""
    made = Replay(table, shares=shares)
    try:
        search(made, seed)
    except Spent:
        pass
    return made


def tree(made: Replay, seed: int, *, to_end: bool = False) -> None:
    """The search of the harness, as `harness.searching` has it."""
    table = made.table
    space = Space(table.searched, seed=seed)
    index = {tuple(point.values()): number for number, point in enumerate(table.points)}
    at = [index[tuple(point.values())] for point in space.points]
    back = {number: place for place, number in enumerate(at)}
    search = TreeSearch(space, epochs=table.values.shape[1], seed=seed)
    while (move := search.choose({}, to_end=to_end)) is not None:
        point = at[move.point]
        while made.known[point] < min(move.until, table.lengths[point]):
            made.train(point)
        seen = int(made.known[point])
        mates = np.flatnonzero(table.nodes[:, 0] == table.nodes[point, 0])
        common = np.minimum.accumulate(table.nodes[mates, :seen] == table.nodes[point, :seen], axis=1).sum(1)
        shared = [(space.points[back[mate]], int(c)) for mate, c in zip(mates.tolist(), common, strict=True)]
        curve = table.values[point, :seen]
        search.note(space.points[move.point], curve.tolist(), shared, is_over=not np.isfinite(curve[-1]))


def tree_to_end(made: Replay, seed: int) -> None:
    """The same where each trial is trained to its end: `--trials N`."""
    tree(made, seed, to_end=True)


def asha(made: Replay, seed: int) -> None:
    """Asynchronous halving with promotion (Li et al., 2020), rungs 2, 6, 15 and 30 by 3, over random configurations."""
    table = made.table
    rungs = sorted({min(rung, table.values.shape[1]) for rung in (2, 6, 15, 30)})
    fresh = random.Random(seed).sample(range(len(table.points)), len(table.points))
    standing: list[dict[int, float]] = [{} for _ in rungs]
    promoted: list[set[int]] = [set() for _ in rungs]

    def next_move() -> tuple[int, int] | None:
        for place in reversed(range(len(rungs) - 1)):
            best = sorted(standing[place], key=standing[place].__getitem__)[: len(standing[place]) // 3]
            for point in best:
                if point not in promoted[place]:
                    promoted[place].add(point)
                    return point, place + 1
        return (fresh.pop(), 0) if fresh else None

    while (move := next_move()) is not None:
        point, place = move
        while made.known[point] < min(rungs[place], table.lengths[point]):
            made.train(point)
        standing[place][point] = float(table.values[point, : rungs[place]].min())
