"""Makes `Data` from raw arrays: checks, class names, normalisation, and a digest."""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from harness.data.augment import Augment, augment_names, check_augment
from harness.data.normalise import mean_and_std
from harness.data.part import Arrays, Data, Part
from harness.errors import HarnessError

Classes = Sequence[str] | int | None


def build_data(
    *,
    name: str,
    train: Arrays,
    validation: Arrays,
    load_test: Callable[[], Part] | None,
    classes: Classes,
    augment: Sequence[Augment] | Augment,
    normalize: bool,
    description: dict[str, str | int | float],
) -> Data:
    """`Data` from arrays, with the statistics of the training part and the digest of all parts."""
    shape = tuple(train.inputs.shape[1:])
    if tuple(validation.inputs.shape[1:]) != shape:
        raise HarnessError(
            f"{name}: training inputs have shape {shape}, validation inputs {tuple(validation.inputs.shape[1:])}."
        )
    names = check_augment(augment, images=len(shape) == 3)
    mean, std = mean_and_std(train.inputs) if normalize else (None, None)
    labels = class_names(classes, [train.targets, validation.targets], name)
    return Data(
        name=name,
        train=train,
        validation=validation,
        load_test=load_test,
        classes=labels,
        augment=names,
        mean=mean,
        std=std,
        digest=data_digest(
            [train.inputs, train.targets, validation.inputs, validation.targets],
            {"augment": augment_names(names), "classes": labels, "normalize": normalize},
        ),
        description=describe(name, train, validation, shape, labels, names) | description,
        input_shape=shape,
        is_multilabel=labels is None and are_labels([train.targets, validation.targets]),
    )


def describe(
    name: str,
    train: Any,
    validation: Any,
    shape: tuple[int, ...],
    classes: tuple[str, ...] | None,
    augment: tuple[Augment, ...],
) -> dict[str, str | int | float]:
    """What MLflow records about a data set, from any source."""
    return {
        "source": name,
        "train": len(train),
        "validation": len(validation),
        "shape": "x".join(map(str, shape)),
        "classes": len(classes) if classes is not None else "none (regression)",
        "augment": "+".join(augment_names(augment)) if augment else "none",
    }


def data_digest(tensors: Sequence[Tensor], settings: dict[str, Any]) -> str:
    """sha256 over dtype, shape and content of the tensors, and over the settings."""
    found = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for tensor in tensors:
        # For images the digest is over (N, H, W, C), for any order of the memory.
        ordered = tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor
        found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(ordered.contiguous().numpy().data)
    return found.hexdigest()


def as_inputs(values: Any, name: str) -> Tensor:
    """Inputs in the stored form: images uint8 (N, C, H, W) in channels_last order, others float32 (N, ...)."""
    tensor = torch.as_tensor(values).detach().cpu()
    if tensor.ndim < 2:
        raise HarnessError(f"{name}: inputs need a shape (N, ...), not {tuple(tensor.shape)}.")
    if len(tensor) == 0:
        raise HarnessError(f"{name}: there are no inputs.")
    if tensor.ndim == 4 and tensor.dtype == torch.uint8:
        if tensor.shape[1] > 4 and tensor.shape[3] <= 4:
            raise HarnessError(
                f"{name}: inputs {tuple(tensor.shape)} look like (N, H, W, C); images are (N, C, H, W). "
                "Give inputs.transpose(0, 3, 1, 2)."
            )
        return tensor.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    tensor = tensor.to(torch.float32)
    if not bool(torch.isfinite(tensor).all()):
        raise HarnessError(f"{name}: the inputs hold NaN or infinite values.")
    return tensor.contiguous()


def as_targets(values: Any, name: str, *, classes: Classes = None) -> Tensor:
    """Targets in the stored form: classes int64 (N,), or float32: soft targets (N, K) or regression values."""
    tensor = torch.as_tensor(values).detach().cpu()
    if tensor.ndim not in (1, 2):
        raise HarnessError(f"{name}: targets need a shape (N,) or (N, D), not {tuple(tensor.shape)}.")
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise HarnessError(f"{name}: the targets hold NaN or infinite values.")
    if tensor.ndim == 1 and classes is not None and tensor.is_floating_point():
        if not bool((tensor == tensor.round()).all()):
            raise HarnessError(f"{name}: classes were named, but the targets are not whole numbers.")
        return tensor.to(torch.int64)
    if tensor.is_floating_point() or tensor.ndim == 2:
        return tensor.to(torch.float32).contiguous()
    return tensor.to(torch.int64).contiguous()


def is_soft(targets: Tensor) -> bool:
    """Whether targets are probabilities over classes: (N, K), not negative, each row with the sum 1."""
    if targets.ndim != 2 or targets.shape[1] < 2 or not targets.is_floating_point():
        return False
    return bool((targets >= 0).all() and ((targets.sum(1) - 1).abs() < 1e-3).all())


def labels_of(targets: Tensor, classes: Classes = None) -> Tensor | None:
    """The class (N,) of each target, for a stratified split; None for regression."""
    if targets.dtype == torch.int64:
        return targets
    return targets.argmax(1) if is_soft(targets) else None


def are_labels(targets: Sequence[Tensor]) -> bool:
    """Whether the targets are yes or no for each of several labels: numbers that are all 0 or 1."""
    found = [part for part in targets if part.is_floating_point() and bool(((part == 0) | (part == 1)).all())]
    return len(found) == len(targets) and any(bool((part == 1).any()) for part in found)


def class_names(classes: Classes, targets: Sequence[Tensor], name: str) -> tuple[str, ...] | None:
    """The names of the classes, by default "0", "1", ...; None for regression. Some parts may have soft targets."""
    soft = [part for part in targets if is_soft(part)]
    hard = [part for part in targets if part.dtype == torch.int64]
    if len(soft) + len(hard) < len(targets):
        if classes is not None:
            raise HarnessError(
                f"{name}: classes were named, but the targets are values (regression), or labels of which an image "
                "may have several; leave classes out."
            )
        return None
    lowest = min((int(part.min()) for part in hard), default=0)
    needed = max([*(int(part.max()) + 1 for part in hard), *(part.shape[1] for part in soft)])
    if lowest < 0:
        raise HarnessError(f"{name}: targets count classes from 0; the lowest is {lowest}.")
    if classes is None:
        names = tuple(map(str, range(needed)))
    else:
        names = tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(map(str, classes))
    wrong = {part.shape[1] for part in soft} - {len(names)}
    if needed > len(names) or wrong:
        found = max(needed, *wrong) if wrong else needed
        if classes is None:
            raise HarnessError(f"{name}: soft targets are over {min(wrong)} classes, but there are {len(names)}.")
        raise HarnessError(f"{name}: {len(names)} classes were named, but the targets need {found}.")
    return names
