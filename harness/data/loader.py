"""Batches of any `torch.utils.data.Dataset`, through a `DataLoader` that is seeded by epoch."""

import random
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from harness.data.augment import draw, generator_for, pad, windows
from harness.data.normalise import channels_last, normalised
from harness.data.resident import finished
from harness.errors import FAILED, HarnessError


def train_batches(
    dataset: Dataset[Any],
    *,
    spans: Sequence[tuple[int, int]],
    seed: int,
    epoch: int,
    device: torch.device,
    workers: int,
    augment: Sequence[str],
    mean: Tensor | None,
    std: Tensor | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of a dataset: the batches that begin and end at `spans` of its random order."""
    generator = generator_for(seed, epoch, torch.device("cpu"))
    order = torch.randperm(length(dataset), generator=generator).tolist()
    groups = [order[start:stop] for start, stop in spans]
    loaded = _load(dataset, groups, generator=generator, device=device, workers=workers)
    mean, std = on_device(mean, device), on_device(std, device)
    draws = None
    for (start, stop), (inputs, targets) in zip(spans, loaded, strict=True):
        if not augment:
            yield normalised(inputs, mean, std), targets
            continue
        height, width = inputs.shape[2:]
        if draws is None:
            draws = draw(augment, len(order), height, width, generator_for(seed, epoch, device))
        images = channels_last(inputs)
        if draws.offsets is not None:
            places = torch.arange(len(images), device=device)
            images = windows(pad(images), places, draws.offsets[start:stop], height, width)
        yield finished(images, draws.at(slice(start, stop)), mean, std), targets


def batches(
    dataset: Dataset[Any],
    *,
    batch_size: int,
    device: torch.device,
    workers: int,
    mean: Tensor | None,
    std: Tensor | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """All of a dataset, in order; the global random generators stay as they are."""
    count = length(dataset)
    groups = [list(range(start, min(start + batch_size, count))) for start in range(0, count, batch_size)]
    generator = generator_for(0, 0, torch.device("cpu"))
    mean, std = on_device(mean, device), on_device(std, device)
    for inputs, targets in _load(dataset, groups, generator=generator, device=device, workers=workers):
        yield normalised(inputs, mean, std), targets


def _load(
    dataset: Dataset[Any],
    groups: list[list[int]],
    *,
    generator: torch.Generator,
    device: torch.device,
    workers: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches `groups` on the device.

    The worker processes end with the epoch (`persistent_workers=False`) and take their seeds from
    `generator`: their random state would otherwise depend on the epochs before.
    """
    pinned = device.type == "cuda"
    batches = DataLoader(
        dataset,
        batch_sampler=groups,
        num_workers=workers,
        collate_fn=collate,
        generator=generator,
        pin_memory=pinned,
        worker_init_fn=partial(_seed_worker, int(torch.randint(2**31, (), generator=generator))),
    )
    for inputs, targets in batches:
        yield inputs.to(device, non_blocking=pinned), targets.to(device, non_blocking=pinned)


def on_device(values: Tensor | None, device: torch.device) -> Tensor | None:
    """Mean or std where the batches are: moved once an epoch, for the device would be waited for each time."""
    return None if values is None else values.to(device)


def _seed_worker(seed: int, worker: int) -> None:
    random.seed(seed + worker)
    np.random.seed(seed + worker)
    torch.manual_seed(seed + worker)


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


def length(dataset: Dataset[Any]) -> int:
    """How many items a dataset has."""
    return len(dataset)  # type: ignore[arg-type]  # Dataset declares none; datasets() has asked for one
