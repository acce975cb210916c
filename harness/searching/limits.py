"""How far a sweep goes: so many trials, epochs, seconds, or until a value is reached."""

import time
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What ends a sweep. None means no such limit."""

    trials: int | None  # trained to their end, in all; None: as many as the other limits let the search begin
    budget: int | None = None  # epochs trained, in all
    ends: float | None = None  # of the monotonic clock
    until: float | None = None  # a value of the objective

    @property
    def is_late(self) -> bool:
        """Whether the time is up."""
        return self.ends is not None and time.monotonic() > self.ends
