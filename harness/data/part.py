"""`Data`: the parts of a data set, and the batches that a training loop asks it for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from harness.data import loader
from harness.data.normalise import normalised
from harness.data.resident import Epoch, Resident
from harness.errors import FAILED, HarnessError


@dataclass(frozen=True, kw_only=True, eq=False)
class Arrays:
    """One part of a data set, held in memory.

    >>> import torch
    >>> len(Arrays(inputs=torch.zeros(6, 3, 8, 8, dtype=torch.uint8), targets=torch.zeros(6, dtype=torch.int64)))
    6
    """

    inputs: Tensor  # images (N, C, H, W) uint8, best in channels_last order; anything else (N, ...) float32
    targets: Tensor  # classes (N,) int64; soft targets (N, K) float32; regression (N,) or (N, D) float32

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.targets):
            raise HarnessError(f"{len(self.inputs):,} inputs do not go with {len(self.targets):,} targets.")

    def __len__(self) -> int:
        return len(self.inputs)

    def to(self, device: torch.device) -> Arrays:
        """The same part on `device`."""
        return Arrays(inputs=self.inputs.to(device), targets=self.targets.to(device))


Part = Arrays | Dataset[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Data:
    """Training, validation and test part of a data set, and how their images become batches.

    Made by the functions of `harness.data`, not by hand. A part is `Arrays`, which live on the device that
    trains, or a `torch.utils.data.Dataset`, which goes through a `DataLoader`.
    """

    name: str
    train: Part
    validation: Part
    load_test: Callable[[], Part] | None = None
    classes: tuple[str, ...] | None = None  # None: regression
    augment: tuple[str, ...] = ()
    mean: Tensor | None = None  # (C,), in the units of the inputs: 0..255 for uint8
    std: Tensor | None = None  # (C,)
    digest: str
    description: dict[str, str | int | float] = field(default_factory=dict)
    input_shape: tuple[int, ...]  # of one input: (C, H, W) for images
    workers: int = 0  # processes of the DataLoader, where there is one

    @property
    def is_classification(self) -> bool:
        """Whether the targets are classes (or soft targets over classes)."""
        return self.classes is not None

    @property
    def num_classes(self) -> int | None:
        """How many classes there are; None for regression."""
        return None if self.classes is None else len(self.classes)

    @cached_property
    def test(self) -> Part:
        """The test part, read when it is first asked for; raises `HarnessError` where there is none."""
        if self.load_test is None:
            raise HarnessError(f"{self.name} has no test part to measure on.", exit_code=FAILED)
        return self.load_test()

    def to(self, device: torch.device | str) -> Data:
        """The same data with its arrays on `device`; asked again, the same object (nothing moves twice)."""
        device = torch.empty(0, device=device).device  # "cuda" becomes "cuda:0"
        held = [part for part in (self.train, self.validation) if isinstance(part, Arrays)]
        if all(part.inputs.device == device for part in held):
            return self
        if device not in self._moved:
            self._moved[device] = replace(
                self,
                train=_moved(self.train, device),
                validation=_moved(self.validation, device),
                load_test=None if self.load_test is None else lambda: _moved(self.test, device),
                mean=None if self.mean is None else self.mean.to(device),
                std=None if self.std is None else self.std.to(device),
            )
        return self._moved[device]

    def steps(self, batch_size: int) -> int:
        """Training batches an epoch.

        The last partial batch counts, except where it is one single image: batch norm cannot train on it.
        """
        return len(self.spans(batch_size))

    def spans(self, batch_size: int) -> list[tuple[int, int]]:
        """Where each training batch begins and ends in an epoch: see `steps`."""
        return bounds(_length(self.train), batch_size)

    def train_batches(
        self, *, batch_size: int, seed: int, epoch: int, device: torch.device | str
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of training batches on `device`: shuffled, augmented, normalised.

        Inputs are float32, images (B, C, H, W) in channels_last order. Order and augmentation depend on
        `seed` and `epoch` (and the kind of device) and on nothing else. A last batch of one single image is
        left out. A `Dataset` whose items are random draws from the global generators where `workers` is 0:
        seed them before each epoch.
        """
        device = torch.device(device)
        spans = self.spans(batch_size)
        if isinstance(self.train, Arrays):
            moved = self.to(device)
            return moved._resident.batches(spans, seed=seed, epoch=epoch)
        return loader.train_batches(
            self.train,
            spans=spans,
            seed=seed,
            epoch=epoch,
            device=device,
            workers=self.workers,
            augment=self.augment,
            mean=self.mean,
            std=self.std,
        )

    def shuffle(self, *, seed: int, epoch: int) -> Epoch:
        """An epoch of training as indices, where the data lives on the device: `batch` makes batches of it."""
        return self._resident.shuffle(seed=seed, epoch=epoch)

    def batch(self, epoch: Epoch, places: Tensor) -> tuple[Tensor, Tensor]:
        """The training batch at the places (B,) int64 of an epoch, the same as `train_batches` gives."""
        return self._resident.batch(epoch, places)

    def batches(self, part: Part, *, batch_size: int, device: torch.device | str) -> Iterator[tuple[Tensor, Tensor]]:
        """All of a part on `device`, in order, normalised and not augmented; the last batch may be smaller."""
        device = torch.device(device)
        if not isinstance(part, Arrays):
            yield from loader.batches(
                part,
                batch_size=batch_size,
                device=device,
                workers=self.workers,
                mean=self.mean,
                std=self.std,
            )
            return
        for start in range(0, len(part), batch_size):
            inputs = part.inputs[start : start + batch_size].to(device)
            yield self.prepare(inputs), part.targets[start : start + batch_size].to(device)

    def prepare(self, inputs: Tensor) -> Tensor:
        """Inputs as the model sees them in evaluation: float32, normalised; images in channels_last order."""
        return normalised(inputs, self.mean, self.std)

    @cached_property
    def _moved(self) -> dict[torch.device, Data]:
        return {}

    @cached_property
    def _resident(self) -> Resident:
        assert isinstance(self.train, Arrays)
        return Resident(self.train.inputs, self.train.targets, augment=self.augment, mean=self.mean, std=self.std)


def bounds(count: int, batch_size: int) -> list[tuple[int, int]]:
    """Where each training batch begins and ends.

    >>> bounds(7, 3), bounds(8, 3)
    ([(0, 3), (3, 6)], [(0, 3), (3, 6), (6, 8)])
    """
    spans = [(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    if batch_size > 1 and len(spans) > 1 and count % batch_size == 1:
        spans.pop()
    return spans


def _length(part: Part) -> int:
    return len(part)  # type: ignore[arg-type]  # Dataset declares no length; datasets() has asked for one


def _moved(part: Part, device: torch.device) -> Part:
    return part.to(device) if isinstance(part, Arrays) else part
