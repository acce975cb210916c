"""What every worker needs and is slow to load, loaded once in the process that the others start from."""

from harness.machine import loading

with loading():
    import torch

    import harness.sweep.worker  # noqa: F401

    # The first optimizer of a process imports torch's compiler, which takes about as long as torch itself.
    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
