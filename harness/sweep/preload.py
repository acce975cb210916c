"""What every worker needs and is slow to load, loaded once in the process that the others start from."""

from harness.machine import loading
from harness.training.optimizers import unwrap_optimizers

with loading():
    import harness.sweep.worker  # noqa: F401

unwrap_optimizers()
