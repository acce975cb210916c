"""How certain a value is: its interval for the number of validation images, and which differences are significant."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.results.statistics import Estimate, share_interval, shares_differ
from harness.tracking.runs import RunRecord


@dataclass(frozen=True, kw_only=True)
class Trust:
    """The precision of an objective that is a share of `images`; None if it is not a share."""

    images: int | None
    best: float | None

    def interval(self, value: float | None) -> Estimate | None:
        """The 95% interval of the value on other images of this kind."""
        if self.images is None or value is None or not 0 <= value <= 1:
            return None
        return share_interval(value, self.images)

    def is_close(self, value: float | None) -> bool:
        """Whether the difference to the best value is not significant with so many images."""
        if self.images is None or self.best is None or value is None:
            return False
        return not shares_differ(self.best, value, self.images)


def is_share(objective: str) -> bool:
    """Whether a metric is the share of images that are right."""
    return objective.endswith("accuracy")


def count_close(trust: Trust, records: Sequence[RunRecord]) -> int:
    """The number of other runs whose difference to the best one is not significant."""
    return sum(trust.is_close(record.value) for record in records[1:])


def shown_interval(found: Estimate) -> str:
    """An interval in few digits.

    >>> shown_interval(Estimate(value=0.5, low=0.451, high=0.549, level=0.95))
    '0.451 to 0.549'
    """
    digits = 3 if found.high - found.low > 0.01 else min(6, 1 - math.floor(math.log10(found.high - found.low or 1)))
    return f"{found.low:.{digits}f} to {found.high:.{digits}f}"
