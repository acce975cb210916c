"""What tells how an epoch trained, beside its metrics: the last gradient, the change of the weights, each class.

Nothing here changes a bit of the training. The device is waited for once an epoch.
"""

import torch
from torch import Tensor

from harness.training.parts import Parts

MOST_VALUES = 100_000_000  # weights that are kept for a comparison: a copy of more might not fit beside the training
MOST_CLASSES = 1_000


class Movement:
    """The weights at the beginning of an epoch, to compare with those at its end."""

    def __init__(self, parts: Parts) -> None:
        every = {id(weight): weight for group in parts.groups for weight in group["params"]}
        self._weights = [weight for weight in every.values() if _is_measured(weight)]
        is_small = sum(weight.numel() for weight in self._weights) <= MOST_VALUES
        self._before = [weight.detach().clone() for weight in self._weights] if is_small else []

    @torch.no_grad()
    def read(self) -> dict[str, float]:
        """`gradient_norm` of the epoch's last step, and `update_size`: the change of the weights, over their norm.

        Without the first one where the step leaves no gradients, and without the second one for large networks.
        """
        gradients = [weight.grad for weight in self._weights if weight.grad is not None and _is_measured(weight.grad)]
        found = {}
        if gradients:
            found["gradient_norm"] = _norm(gradients)
        if self._before:
            changes = [after.detach() - before for after, before in zip(self._weights, self._before, strict=True)]
            found["update_size"] = _norm(changes) / _norm(self._before)
        return dict(zip(found, torch.stack(list(found.values())).tolist(), strict=True)) if found else {}


def _is_measured(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and tensor.is_floating_point() and tensor.numel() > 0


def _norm(tensors: list[Tensor]) -> Tensor:
    """The norm of all values together, as a float32 on the first one's device."""
    device = tensors[0].device
    norms = [torch.linalg.vector_norm(tensor.float()).to(device) for tensor in tensors]
    whole: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return whole


class ClassTally:
    """Which images of each class are classified rightly; for outputs (N, K) and targets (N,), not for others."""

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._targets: list[Tensor] = []
        self._right: list[Tensor] = []

    def add(self, outputs: object, targets: Tensor) -> None:
        """Adds a batch."""
        if isinstance(outputs, Tensor) and outputs.shape == (len(targets), self._classes) and targets.dim() == 1:
            self._targets.append(targets)
            self._right.append(outputs.argmax(1) == targets)

    def read(self) -> list[float | None]:
        """The share of each class that was right; None for a class without images, and no list where none was added."""
        if not self._targets or self._classes > MOST_CLASSES:
            return []
        targets, right = torch.cat(self._targets).cpu(), torch.cat(self._right).cpu()
        counts = torch.bincount(targets, minlength=self._classes).tolist()
        hits = torch.bincount(targets[right], minlength=self._classes).tolist()
        return [hit / count if count else None for hit, count in zip(hits, counts, strict=True)]
