"""What every worker needs and is slow to load, loaded once in the process that the others start from."""

from harness.machine import loading

with loading():
    import harness.workers.worker  # noqa: F401
    from harness.training.optimizers import unwrap_optimizers

unwrap_optimizers()
