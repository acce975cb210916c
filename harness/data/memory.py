"""`tensors`: data that the user holds in memory."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from harness.data.assemble import Classes, as_inputs, as_targets, build_data, labels_of
from harness.data.augment import Augment
from harness.data.part import Arrays, Data
from harness.data.split import Indices, part_size, split
from harness.errors import HarnessError

PartSpec = int | float | tuple[Any, Any]  # a count, a fraction, or inputs and targets


def tensors(
    inputs: Any,
    targets: Any,
    *,
    validation: PartSpec = 0.1,
    test: PartSpec | None = None,
    augment: Sequence[Augment] | Augment = (),
    normalize: bool | None = None,
    classes: Classes = None,
    split_seed: int = 0,
    name: str = "tensors",
) -> Data:
    """Data from tensors or NumPy arrays.

    `inputs` are images (N, C, H, W) uint8, or other inputs (N, ...), stored as float32. `targets` are whole
    numbers (N,) for classes; (N, K), not negative and with rows of sum 1, for one-hot or soft targets; other
    numbers, (N,) or (N, D), for regression. `validation` and `test` are a count, a fraction, or a pair
    (inputs, targets); a part that is split off is stratified by class. `normalize` takes mean and standard deviation
    a channel (dimension 1) from the training part; None does so for uint8 images only. `classes` are names or
    a number. Raises `HarnessError` for different lengths, NaN, and targets outside of the classes.

    >>> import torch
    >>> data = tensors(torch.randn(50, 4), torch.arange(50) % 2, validation=10)
    >>> len(data.train), len(data.validation), data.classes
    (40, 10, ('0', '1'))
    """
    whole = _part((inputs, targets), name, classes)
    cut = {
        part: part_size(size, len(whole), part)
        for part, size in (("test", test), ("validation", validation))
        if size is not None and not isinstance(size, tuple)
    }
    labels = labels_of(whole.targets)
    indices = dict(zip((*cut, "train"), split(labels, len(whole), tuple(cut.values()), seed=split_seed), strict=True))
    parts = {part: select(whole, chosen) for part, chosen in indices.items()} if cut else {"train": whole}
    for part, given in (("test", test), ("validation", validation)):
        if isinstance(given, tuple):
            parts[part] = _part(given, f"{name}: {part}", classes)
    held_out = parts.get("test")
    return build_data(
        name=name,
        train=parts["train"],
        validation=parts["validation"],
        load_test=None if held_out is None else lambda: held_out,
        classes=classes,
        augment=augment,
        normalize=whole.inputs.element_size() == 1 if normalize is None else normalize,
        description={"test": 0 if held_out is None else len(held_out)} | split_note(cut, labels, split_seed),
    )


def select(whole: Arrays, chosen: Indices) -> Arrays:
    """The images `chosen` of a part, still in channels_last order."""
    return Arrays(inputs=take(whole.inputs, chosen), targets=whole.targets[chosen])


def take(inputs: Tensor, chosen: Indices) -> Tensor:
    """Rows of a tensor; images keep their channels_last order."""
    if inputs.ndim != 4:
        return inputs[chosen]
    return inputs.permute(0, 2, 3, 1)[chosen].permute(0, 3, 1, 2)


def split_note(cut: object, labels: object, split_seed: int) -> dict[str, str | int | float]:
    """How the parts were made, for the record."""
    if not cut:
        return {"split": "given"}
    return {"split": "random" if labels is None else "stratified", "split_seed": split_seed}


def _part(pair: tuple[Any, Any], name: str, classes: Classes) -> Arrays:
    if len(pair) != 2:
        raise HarnessError(f"{name}: a part is a pair (inputs, targets), not {len(pair)} values.")
    return Arrays(inputs=as_inputs(pair[0], name), targets=as_targets(pair[1], name, classes=classes))
