"""The search over the tree of epochs: what is trained next, and until which epoch. See docs/search.md."""

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.searching.promise import Promise
from harness.searching.space import Space
from harness.searching.stagnation import Stagnation

# Trials wait after these shares of all epochs.
STAGES = (1 / 30, 2 / 30, 4 / 30, 6 / 30, 9 / 30, 13 / 30, 18 / 30, 24 / 30, 1)
AT_RANDOM = 3  # random points before the first choice by expected improvement
TINY = 1e-9  # a chance that counts as none
PRICED = 0.1  # the power of the epochs still to be trained by which a promise is divided
SAME = 1e-9  # smaller differences of promise count as equal


@dataclass(frozen=True, kw_only=True)
class Move:
    """What to train next: a point, until so many of its epochs are known."""

    point: int
    until: int


class TreeSearch:
    """What is known of each point of a space, and the choice of the next point. Lower values are better."""

    def __init__(self, space: Space, *, epochs: int, seed: int, at_last: bool = False) -> None:
        self.space, self.epochs = space, epochs
        self._seed, self._at_last = seed, at_last
        self._stages = sorted({max(1, round(share * epochs)) for share in STAGES})
        self._promise = Promise(space.places, epochs, is_fitted=not space.is_whole)
        self.known = np.zeros(len(space), dtype=int)  # epochs of each point, trained by itself or by a sibling
        self.value = np.full(len(space), np.inf)  # the best one along those epochs
        self._stagnation = Stagnation(self._stages)
        self._ages = np.zeros(len(space), dtype=int)  # stages since the best of those epochs
        self.is_over = np.zeros(len(space), dtype=bool)  # finished, diverged, pruned or failed
        self._is_shared = False  # whether any two points have shared an epoch
        self._moves = 0

    def note(
        self,
        values: Mapping[str, Any],
        curve: Sequence[float],
        shared: Iterable[tuple[Mapping[str, Any], int]] = (),
        *,
        is_over: bool = False,
    ) -> None:
        """Notes the curve of a run so far, and how many of its epochs each sibling shares.

        `is_over` says that the run will not continue: it finished (maybe early), diverged, was pruned or failed.
        """
        self._moves += 1
        own = self.space.find(values)
        if own is None:
            return
        before = int(self.known[own])
        finite = np.where(np.isfinite(curve), curve, np.inf)
        seen = finite if self._at_last else np.minimum.accumulate(finite)
        self._stagnation.note(finite, before)
        for epoch in self._stages:
            if before < epoch <= len(curve):
                self._promise.add(own, epoch, float(seen[epoch - 1]))
        if is_over and 0 < len(curve) < self.epochs:
            self._promise.add(own, self.epochs, float(seen[-1]) if np.isfinite(curve[-1]) else np.inf)
        for sibling, epochs in [*shared, (values, len(curve))]:
            point = self.space.find({**values, **{k: v for k, v in sibling.items() if k in values}})
            common = min(epochs, len(curve))
            if point is not None and common >= self.known[point]:
                self._is_shared = self._is_shared or (point != own and common > 0)
                self.known[point], self._ages[point] = common, self._stagnation.age(finite, common)
                self.value[point] = seen[common - 1] if common else np.inf
                self.is_over[point] |= is_over and common == len(curve)

    def choose(self, busy: Mapping[int, int], *, to_end: bool) -> Move | None:
        """The point that promises most for its price, and the epoch at which it waits next; None if all is known.

        `busy` has the points that train now and until when; `to_end` asks for all of a point's epochs at once.
        """
        points = self._open(busy)
        if not len(points):
            return None
        chance = random.Random(f"{self._seed}/{self._moves + len(busy)}")
        if self._moves + len(busy) < AT_RANDOM or not len(self._promise):
            point = int(points[chance.randrange(len(points))])
        else:
            promise = self._expected(points, busy)
            best = points[promise >= promise.max() - SAME]
            point = int(best[chance.randrange(len(best))])
        known = int(self.known[point])
        until = self.epochs if to_end else next(stage for stage in self._stages if stage > known)
        return Move(point=point, until=until)

    def _expected(self, points: np.ndarray, busy: Mapping[int, int]) -> np.ndarray:
        """The logarithm of what is to be expected of each of these points, for its price.

        That is its improvement, times the square of its chance to improve, over a root of the epochs that are still to
        be trained to its end. The chance counts twice, because improvements that come late are also small. Where
        nothing is shared, the best value so far is also a matter of luck, and need not be what others improve on.
        """
        expected = self._promise.improvements(points, sorted(busy.items()), over_expected=not self._is_shared)
        for_its_price = expected - PRICED * np.log(self.epochs - self.known[points])
        if self._at_last:
            return np.asarray(for_its_price)
        chances = self._stagnation.chances(self._ages[points], self.known[points])
        return np.asarray(for_its_price + 2 * np.log(np.maximum(chances, TINY)))

    def nearest_open(self, values: Mapping[str, Any], *, busy: Collection[int]) -> dict[str, Any] | None:
        """The nearest point to these values that is neither known to its end nor `busy`; None if there is none."""
        points, place = self._open(busy), self.space.find(values)
        if not len(points) or place is None:
            return None
        apart = ((self.space.places[points] - self.space.places[place]) ** 2).sum(1)
        return self.space.points[int(points[apart.argmin()])]

    def _open(self, busy: Collection[int]) -> np.ndarray:
        is_open = (self.known < self.epochs) & ~self.is_over
        is_open[list(busy)] = False
        return np.flatnonzero(is_open)

    def is_known(self, values: Mapping[str, Any]) -> bool:
        """Whether a point's whole path is known."""
        point = self.space.find(values)
        return point is not None and bool(self.known[point] >= self.epochs or self.is_over[point])

    @property
    def is_exhausted(self) -> bool:
        """Whether every point of the space is known to its end."""
        return self.space.is_whole and bool(((self.known >= self.epochs) | self.is_over).all())
