"""Makes the two tensors of a batch from the items of a dataset."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from harness.errors import FAILED, HarnessError

Collate = Callable[[Sequence[Any]], tuple[Tensor, Tensor]]


def collate(items: Sequence[tuple[Any, Any]]) -> tuple[Tensor, Tensor]:
    """A list of (input, target) as two tensors; PIL images become uint8 (C, H, W)."""
    inputs = [as_input(item[0]) for item in items]
    shapes = {tuple(value.shape) for value in inputs}
    if len(shapes) > 1:
        first, second = sorted(shapes)[:2]
        raise HarnessError(
            f"the dataset gives inputs of different shapes, such as {first} and {second}. "
            "Give it a transform that makes them one size.",
            exit_code=FAILED,
        )
    targets = default_collate([item[1] for item in items])
    return torch.stack(inputs), as_targets(targets)


@dataclass(frozen=True)
class OwnCollate:
    """A user's `collate_fn`. Its result is checked and converted to the types of a batch."""

    function: Callable[[Any], Any]
    name: str  # the argument's name, for messages

    def __call__(self, items: Sequence[Any]) -> tuple[Tensor, Tensor]:
        found = self.function(list(items))
        if not isinstance(found, tuple | list) or len(found) != 2:
            raise HarnessError(
                f"{self.name} must give a pair (inputs, targets), not {_shown(found)}.", exit_code=FAILED
            )
        if not isinstance(found[0], Tensor) or not isinstance(found[1], Tensor):
            shown = f"{_shown(found[0])} and {_shown(found[1])}"
            raise HarnessError(f"{self.name} must give two tensors, not {shown}.", exit_code=FAILED)
        inputs, targets = found
        if len(inputs) != len(targets):
            raise HarnessError(
                f"{self.name} gives {len(inputs)} inputs and {len(targets)} targets for {len(items)} items.",
                exit_code=FAILED,
            )
        is_image = inputs.dtype == torch.uint8 and inputs.ndim == 4
        return inputs if is_image else inputs.to(torch.float32), as_targets(targets)


def as_input(value: Any) -> Tensor:
    """One item's input as a uint8 image (C, H, W) or a float32 tensor."""
    from PIL import Image

    if isinstance(value, Image.Image):
        pixels = np.array(value if value.mode in ("L", "RGB") else value.convert("RGB"))
        return torch.from_numpy(np.atleast_3d(pixels)).permute(2, 0, 1)
    tensor = torch.as_tensor(value)
    return tensor if tensor.dtype == torch.uint8 and tensor.ndim == 3 else tensor.to(torch.float32)


def as_targets(targets: Tensor) -> Tensor:
    """Targets of a batch as int64 classes, or float32."""
    if targets.is_floating_point() or targets.ndim > 1:
        return targets.to(torch.float32)
    return targets.to(torch.int64)


def _shown(value: Any) -> str:
    return f"{len(value)} values" if isinstance(value, tuple | list) else type(value).__name__
