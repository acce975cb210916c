"""What ends a sweep: a number of trials, a number of epochs, a time, or a value."""

import time
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What ends a sweep. None means no such limit."""

    trials: int | None  # trials that are trained to their end, in all; None: the other limits end the sweep
    budget: int | None = None  # epochs trained, in all
    ends: float | None = None  # of the monotonic clock
    until: float | None = None  # a value of the objective

    def is_late(self, *, reserved: float = 0) -> bool:
        """Whether the time is up, but for the seconds that are reserved."""
        return self.ends is not None and time.monotonic() + reserved > self.ends
