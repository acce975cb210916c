"""What is measured beside the loss: accuracy, absolute error, a user's functions and torchmetrics objects."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from harness.data import Data

Measure = Callable[[Tensor, Tensor], Tensor]
OF_REGRESSION = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 for each image whose largest output is its class, else 0. (N, K), (N,) or (N, K) -> (N,)"""
    classes = targets if targets.dim() == 1 else targets.argmax(1)
    return (outputs.argmax(1) == classes).float()


def mean_absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """The absolute error of each image, a mean over its outputs. (N, ...) -> (N,)"""
    return (outputs.float() - targets).abs().flatten(1).mean(1) if targets.dim() > 1 else (outputs - targets).abs()


def label_accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """The share of right labels of each image; an output above 0 means that the label is there. (N, ...) -> (N,)"""
    right = ((outputs > 0) == (targets > 0.5)).float()
    return right.flatten(1).mean(1) if right.dim() > 1 else right


def label_accuracy_of_probabilities(outputs: Tensor, targets: Tensor) -> Tensor:
    """The same for outputs that are probabilities: above 0.5 means that the label is there. (N, ...) -> (N,)"""
    return label_accuracy(outputs - 0.5, targets)


def default_measures(data: Data, loss: Any = None) -> dict[str, Any]:
    """Accuracy for classes and labels, mean absolute error for regression."""
    if data.is_classification:
        return {"accuracy": accuracy}
    if data.is_multilabel and not isinstance(loss, OF_REGRESSION):
        return {"accuracy": label_accuracy_of_probabilities if isinstance(loss, nn.BCELoss) else label_accuracy}
    return {"mean_absolute_error": mean_absolute_error}


class Totals:
    """Sums of the loss and of each measure over one part, kept on the device and read once."""

    def __init__(self, measures: Mapping[str, Any], device: torch.device) -> None:
        self._loss = torch.zeros((), dtype=torch.float32, device=device)
        self._sums = {name: torch.zeros((), device=device) for name, m in measures.items() if not is_object(m)}
        self._measures = measures
        self.count = self.measured = 0  # images in the sum of the loss, and in the sums of the measures
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Starts new sums, in the same memory."""
        self.count = self.measured = 0
        for total in self.tensors():
            total.zero_()
        for measure in self._measures.values():
            if is_object(measure):
                measure.reset()

    def tensors(self) -> list[Tensor]:
        """The sums."""
        return [self._loss, *self._sums.values()]

    @torch.no_grad()
    def add(self, loss: Tensor, outputs: Tensor | None, targets: Tensor, *, count: int) -> None:
        """Adds a batch of `count` images: its mean loss and, unless they are None, its outputs."""
        self.count += count
        self._loss += loss.detach().float() * count
        if outputs is None:
            return
        self.measured += count
        for name, measure in self._measures.items():
            if is_object(measure):
                measure.update(outputs.detach().float(), targets)
            else:
                value = measure(outputs.detach(), targets)
                self._sums[name] += value.sum() if value.dim() else value * count

    def read(self) -> dict[str, float]:
        """The means; only that of the loss if no outputs were added. Waits for the device: once an epoch and part."""
        loss, *sums = torch.stack(self.tensors()).double().tolist()
        means = {"loss": loss / max(self.count, 1)}
        if not self.measured and self.count:
            return means
        summed = dict(zip(self._sums, sums, strict=True))
        for name, measure in self._measures.items():
            means[name] = float(measure.compute()) if is_object(measure) else summed[name] / max(self.measured, 1)
        return means


def is_object(measure: Any) -> bool:
    """Whether a measure keeps its own state (`update`, `compute`, `reset`, as in torchmetrics)."""
    return hasattr(measure, "update") and hasattr(measure, "compute")
