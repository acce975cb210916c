"""The training loop: one epoch, and one evaluation. No logging and no files in it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from harness.training.measures import Totals

Batches = Iterable[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]


def train_epoch(
    model: nn.Module,
    loss: Loss,
    optimizer: Optimizer,
    batches: Batches,
    *,
    measures: Mapping[str, Any],
    device: torch.device,
    precision: str,
    batch_scheduler: LRScheduler | None = None,
) -> dict[str, float]:
    """Trains one epoch; the mean loss and measures over the images as they were seen."""
    model.train()
    totals = Totals(measures, device)
    for inputs, targets in batches:
        with autocast(device, precision):
            outputs = model(inputs).float()
            batch_loss = loss(outputs, targets)
        optimizer.zero_grad(set_to_none=True)
        batch_loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if batch_scheduler is not None:
            batch_scheduler.step()
        totals.add(batch_loss, outputs, targets)
    return totals.read()  # the epoch's only wait for the device


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loss: Loss,
    batches: Batches,
    *,
    measures: Mapping[str, Any],
    device: torch.device,
    precision: str,
) -> dict[str, float]:
    """The mean loss and measures of a part, in evaluation mode."""
    model.eval()
    totals = Totals(measures, device)
    for inputs, targets in batches:
        with autocast(device, precision):
            outputs = model(inputs).float()
            batch_loss = loss(outputs, targets)
        totals.add(batch_loss, outputs, targets)
    return totals.read()


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Mixed precision for a forward pass: bfloat16 where it is asked for; parameters stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")
