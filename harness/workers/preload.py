"""The slow imports of every worker, done once in the process from which workers are started."""

from harness.machine import loading, own_process

own_process()
with loading():
    import harness.workers.worker  # noqa: F401
    from harness.training.optimizers import unwrap_optimizers

unwrap_optimizers()
