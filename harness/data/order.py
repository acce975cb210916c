"""The order of training: which images each batch of an epoch has."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.errors import HarnessError

Spans = list[tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """The batches that an epoch takes from one shuffled pass over the data."""

    number: int  # of the pass; the first is 0
    spans: Spans  # where each batch begins and ends in the pass's order


def bounds(count: int, batch_size: int) -> Spans:
    """Where each batch of a pass over `count` images begins and ends.

    >>> bounds(7, 3), bounds(8, 3)
    ([(0, 3), (3, 6)], [(0, 3), (3, 6), (6, 8)])
    """
    spans = [(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    if batch_size > 1 and len(spans) > 1 and count % batch_size == 1:
        spans.pop()
    return spans


def stretches(count: int, batch_size: int, *, epoch: int, epoch_steps: int | None) -> list[Stretch]:
    """The batches of an epoch: one whole pass, or the next `epoch_steps` batches, of one or more passes.

    >>> [(part.number, part.spans) for part in stretches(8, 3, epoch=1, epoch_steps=2)]
    [(0, [(6, 8)]), (1, [(0, 3)])]
    """
    spans = bounds(count, batch_size)
    if epoch_steps is None:
        return [Stretch(number=epoch, spans=spans)]
    if epoch_steps < 1:
        raise HarnessError(f"epoch_steps must be a whole number of at least 1, not {epoch_steps!r}.")
    found = []
    first, left = epoch * epoch_steps, epoch_steps
    while left:
        number, place = divmod(first, len(spans))
        taken = spans[place : place + left]
        found.append(Stretch(number=number, spans=taken))
        first, left = first + len(taken), left - len(taken)
    return found


def shuffled(count: int, weights: Tensor | None, generator: torch.Generator) -> Tensor:
    """The order (N,) of a pass: each image once, or N drawn by their weights (N,) float64, with replacement."""
    device = generator.device
    if weights is None:
        return torch.randperm(count, generator=generator, device=device)
    ends = weights.cumsum(0).to(device)  # summed on the CPU: a sum on a GPU is not deterministic
    drawn = torch.rand(count, generator=generator, device=device, dtype=torch.float64) * ends[-1]
    return torch.searchsorted(ends, drawn, right=True).clamp_(max=count - 1)


def check_weights(weights: Tensor | Sequence[float], count: int, name: str) -> Tensor:
    """Weights (N,) float64 on the CPU. Raises `HarnessError` if they are not valid weights."""
    values = torch.as_tensor(weights, dtype=torch.float64).detach().cpu()
    if values.shape != (count,):
        raise HarnessError(
            f"{name}: there are {count:,} training images, but weights of shape {tuple(values.shape)}; "
            "give one number for each."
        )
    if not bool(torch.isfinite(values).all()) or bool((values < 0).any()) or not bool((values > 0).any()):
        raise HarnessError(f"{name}: weights must be finite, not negative, and not all 0.")
    return values


def balancing(targets: Tensor) -> Tensor:
    """Weights (N,) float64 by which every class (N,) int64 is drawn equally often."""
    counts = targets.bincount().double()
    return 1 / counts[targets]
