"""The axis of a hyperparameter or a measure: real values at places from 0 to 1."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

from harness.reporting.pages.drawing import shown

MOST_TICKS = 12  # values that are all named on their axis
SPREAD = 8  # from the lowest to the highest value: an axis with so many times more is logarithmic


def thin_out(ticks: Sequence[tuple[float, str]], gap: float) -> list[tuple[float, str]]:
    """Ticks that stand at least so far apart, the two at the ends among them.

    >>> thin_out([(0.0, "1"), (0.1, "2"), (0.5, "3"), (0.9, "4"), (1.0, "5")], 0.3)
    [(0.0, '1'), (0.5, '3'), (1.0, '5')]
    """
    kept: list[tuple[float, str]] = []
    for tick in sorted(ticks)[:-1]:
        if (not kept or tick[0] - kept[-1][0] >= gap) and (not kept or max(ticks)[0] - tick[0] >= gap):
            kept.append(tick)
    return [*kept, max(ticks)]


class Scale:
    """The values of one axis, from 0 at its foot to 1: linear, logarithmic, or one place for each value."""

    def __init__(self, values: Sequence[Any]) -> None:
        distinct = list(dict.fromkeys(values))
        self.is_number = all(isinstance(v, int | float) and not isinstance(v, bool) for v in distinct)
        self.distinct = sorted(distinct, key=None if self.is_number else str)
        ends: tuple[float, float] = (self.distinct[0], self.distinct[-1]) if self.is_number else (0.0, 1.0)
        low, high = ends
        self.is_log = self.is_number and low > 0 and high / low >= SPREAD
        self.low, self.high = (math.log(low), math.log(high)) if self.is_log else (low, high)

    def place(self, value: Any) -> float:
        if not self.is_number:
            return self.distinct.index(value) / (len(self.distinct) - 1) if len(self.distinct) > 1 else 0.5
        own = math.log(value) if self.is_log else value
        return float((own - self.low) / (self.high - self.low)) if self.high > self.low else 0.5

    def ticks(self) -> list[tuple[float, str]]:
        """Places and labels: each value where they are few and apart, else some between the ends."""
        at = [(self.place(value), shown(value)) for value in self.distinct]
        gaps = [b[0] - a[0] for a, b in itertools.pairwise(at)]
        if not self.is_number or (len(at) <= MOST_TICKS and all(gap > 0.05 for gap in gaps)):
            return at
        between = [self.low + (self.high - self.low) * i / 4 for i in range(5)]
        return [(i / 4, shown(float(math.exp(own) if self.is_log else own))) for i, own in enumerate(between)]
