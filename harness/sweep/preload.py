"""What every worker needs and is slow to load, loaded once in the process that the others start from."""

import torch

import harness.sweep.worker  # noqa: F401

# The first optimizer of a process imports torch's compiler, which takes longer than torch itself.
torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
