"""The points that a search chooses from: all combinations of a stepped search space, or many random ones."""

import itertools
import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.errors import HarnessError
from harness.search import Hyperparameter

MOST = 10_000  # points
DRAWN = 2_000  # of a space that is continuous, or has more than `MOST`


def grid_size(searched: Mapping[str, Hyperparameter]) -> int:
    """How many combinations a stepped search space has; raises `HarnessError` where one has no steps."""
    return math.prod(len(values) for values in grid_of(searched).values())


def grid_of(searched: Mapping[str, Hyperparameter]) -> dict[str, list[Any]]:
    """All values of each hyperparameter; raises `HarnessError` where one has no steps."""
    grids = {}
    for name, found in searched.items():
        values = found.grid()
        if values is None:
            raise HarnessError(f"sampler 'grid' needs steps, and {name} has none: give it a step= or points=.")
        grids[name] = values
    return grids


class Space:
    """The points of a search space, each with its coordinates in the unit cube."""

    def __init__(self, searched: Mapping[str, Hyperparameter], *, seed: int) -> None:
        self._names = list(searched)
        grids = [found.grid() for found in searched.values()]
        stepped = [grid for grid in grids if grid is not None]
        self.is_whole = len(stepped) == len(grids) and math.prod(map(len, stepped)) <= MOST
        if self.is_whole:
            points = list(itertools.product(*stepped))
        else:
            generator = random.Random(f"{seed}/points")
            drawn = (tuple(h.draw(generator.random()) for h in searched.values()) for _ in range(DRAWN))
            points = list(dict.fromkeys(drawn))
        self.points: list[dict[str, Any]] = [dict(zip(self._names, point, strict=True)) for point in points]
        places = [
            [place for (name, found) in searched.items() for place in found.place(point[name])] for point in self.points
        ]
        self.places = np.array(places, dtype=float).reshape(len(points), -1)
        self._index = {self._key(point): index for index, point in enumerate(self.points)}

    def __len__(self) -> int:
        return len(self.points)

    def find(self, values: Mapping[str, Any]) -> int | None:
        """The number of the point with these values."""
        return self._index.get(self._key(values))

    def _key(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(repr(values[name]) for name in self._names)
