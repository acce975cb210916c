"""Images that stay in a file, from which each batch is read: for more of them than memory should hold."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from harness.data.augment import Augment, draw, generator_for
from harness.data.order import shuffled
from harness.data.resident import augmented
from harness.data.split import Indices

AHEAD = 2  # batches that are read while others are trained on
GPU_SHARE = 0.5  # of a GPU's free memory that images may take


class Mapped(Dataset[tuple[Tensor, Tensor]]):
    """Rows of a .npy file of images (M, H, W, C), with a target each.

    Processes that train on one machine share what the system keeps of the file in memory.
    """

    def __init__(self, file: Path, rows: Indices, targets: Tensor) -> None:
        self.file, self.rows, self.targets = file, rows, targets

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(np.array(self.pixels[self.rows[place]])).permute(2, 0, 1), self.targets[place]

    def __getstate__(self) -> dict[str, Any]:
        return {"file": self.file, "rows": self.rows, "targets": self.targets}

    @cached_property
    def pixels(self) -> npt.NDArray[Any]:
        """The file's content (M, H, W, C), mapped."""
        mapped: npt.NDArray[Any] = np.load(self.file, mmap_mode="r")
        return mapped

    @property
    def bytes(self) -> int:
        """What the images of this part take."""
        return len(self.rows) * int(np.prod(self.pixels.shape[1:])) * self.pixels.itemsize

    def read(self, places: npt.NDArray[Any] | slice) -> Tensor:
        """The images (B, H, W, C) at these places."""
        return torch.from_numpy(self.pixels[self.rows[places]])

    def fits(self, device: torch.device, augment: Sequence[Augment]) -> bool:
        """Whether all of it can live on a device: a GPU with memory enough."""
        if device.type != "cuda":
            return False
        free, _ = torch.cuda.mem_get_info(device)
        return self.bytes * (1.6 if "crop" in augment else 1.0) < GPU_SHARE * free

    def held(self, device: torch.device) -> Tensor:
        """All images (N, C, H, W) on a device, brought there in pieces."""
        images = torch.empty((len(self), *self.pixels.shape[1:]), dtype=self.read(slice(0, 1)).dtype, device=device)
        for start in range(0, len(self), 1024):
            images[start : start + 1024] = self.read(slice(start, start + 1024)).to(device)
        return images.permute(0, 3, 1, 2)


def train_batches(
    part: Mapped,
    *,
    spans: Sequence[tuple[int, int]],
    seed: int,
    number: int,
    weights: Tensor | None,
    device: torch.device,
    augment: Sequence[Augment],
    mean: Tensor | None,
    std: Tensor | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches that begin and end at `spans` of pass `number`: the same as of data that lives on the device."""
    generator = generator_for(seed, number, device)
    order = shuffled(len(part), weights, generator)
    height, width = part.pixels.shape[1:3]
    draws = draw(augment, len(order), height, width, generator)
    places = order.cpu().numpy()
    targets = part.targets[torch.from_numpy(places)].to(device)
    mean, std = (None if values is None else values.to(device) for values in (mean, std))
    groups = [places[start:stop] for start, stop in spans]
    for (start, stop), images in zip(spans, _read_ahead(part, groups, device), strict=True):
        batch = augmented(images, draws.at(slice(start, stop)), augment, mean, std)
        yield batch, targets[start:stop]


def batches(part: Mapped, *, batch_size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """All of a part in order, images (B, C, H, W) as they are stored."""
    starts = range(0, len(part), batch_size)
    targets = part.targets.to(device)  # once: each move waits for the device
    groups = [np.arange(start, min(start + batch_size, len(part))) for start in starts]
    for start, images in zip(starts, _read_ahead(part, groups, device), strict=True):
        yield images.permute(0, 3, 1, 2), targets[start : start + batch_size]


def _read_ahead(part: Mapped, groups: Sequence[npt.NDArray[Any]], device: torch.device) -> Iterator[Tensor]:
    """The images of each group on the device; a thread reads the next ones."""

    def read(group: npt.NDArray[Any]) -> Tensor:
        images = part.read(group)
        return images.pin_memory() if device.type == "cuda" else images

    with ThreadPoolExecutor(1) as thread:
        waiting = [thread.submit(read, group) for group in groups[:AHEAD]]
        for index in range(len(groups)):
            images = waiting.pop(0).result()
            if index + AHEAD < len(groups):
                waiting.append(thread.submit(read, groups[index + AHEAD]))
            yield images.to(device, non_blocking=device.type == "cuda")
