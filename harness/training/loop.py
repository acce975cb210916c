"""The training loop: one epoch, and one evaluation. No logging and no files in it."""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from harness.training.measures import Totals
from harness.training.parts import Parts
from harness.training.step import in_precision

Batches = Iterable[tuple[Tensor, Tensor]]


def train_epoch(
    parts: Parts,
    batches: Batches,
    *,
    device: torch.device,
    precision: str,
    after_step: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Trains one epoch; returns the mean loss and measures over the images as the model saw them.

    `after_step` is called after each step, for example to step a scheduler.
    """
    step, model, loss, optimizer = parts.experiment.step, parts.model, parts.loss, parts.optimizer
    totals = Totals(parts.measures, device)
    set_training(parts)
    with in_precision([model], device, precision, parts.scaler), _guarding(parts) as adapt_scale:
        for inputs, targets in batches:
            value, outputs = step(model, loss, optimizer, inputs, targets)
            adapt_scale()
            after_step()
            totals.add(value, outputs, targets, count=len(inputs))
    return totals.read()  # the epoch's only wait for the device


@torch.no_grad()
def evaluate(
    parts: Parts,
    batches: Batches,
    *,
    device: torch.device,
    precision: str,
    seen: Callable[[Any, Tensor], None] = lambda outputs, targets: None,
) -> dict[str, float]:
    """The mean loss and measures of a part, by the network that the spec evaluates, in evaluation mode.

    `seen` is called with the outputs and targets of each batch.
    """
    set_evaluating(parts)
    model = parts.evaluated.eval()
    totals = Totals(parts.measures, device)
    with in_precision([model], device, precision):
        for inputs, targets in batches:
            outputs = parts.experiment.predict(model, inputs)
            totals.add(parts.loss(outputs, targets), outputs, targets, count=len(inputs))
            seen(outputs, targets)
    return totals.read()


def set_training(parts: Parts) -> None:
    """Training mode, also for optimizers that have one (schedule-free: Defazio et al., 2024)."""
    parts.model.train()
    for optimizer in parts.optimizers.values():
        if callable(switch := getattr(optimizer, "train", None)):
            switch()


def set_evaluating(parts: Parts) -> None:
    """Evaluation mode, also for optimizers that have one: then the weights are those to evaluate and to save."""
    parts.model.eval()
    for optimizer in parts.optimizers.values():
        if callable(switch := getattr(optimizer, "eval", None)):
            switch()


def _guarding(parts: Parts) -> Any:
    if parts.scaler is None:
        return nullcontext(lambda: None)
    return parts.scaler.guarding(list(parts.optimizers.values()))
