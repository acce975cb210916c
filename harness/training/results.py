"""What a run tells whoever iterates it. Without torch, so that the process that only listens need not load it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EpochResult:
    """What one epoch gave. `epoch` counts from 0; times are in seconds."""

    epoch: int
    metrics: dict[str, float]
    learning_rate: float
    epoch_seconds: float
    reused: bool
    trained_by: str  # run id
    best_epoch: int | None
    best_value: float | None
    is_finite: bool
    note: str | None = None
