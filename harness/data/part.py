"""`Data`: the parts of a data set, and the batches for a training loop."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from harness.data import loader, mapped
from harness.data.augment import Augment
from harness.data.loader import Loading
from harness.data.mapped import Mapped
from harness.data.normalise import normalised
from harness.data.order import Spans, Stretch, balancing, bounds, check_weights, stretches
from harness.data.resident import Epoch, Resident, joined
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

    The functions of `harness.data` make it. A part is `Arrays`, which are kept on the device that trains, `Mapped`,
    which stays in a file, or another `torch.utils.data.Dataset`, which is read by a `DataLoader`.
    """

    name: str
    train: Part
    validation: Part
    load_test: Callable[[], Part] | None = None
    classes: tuple[str, ...] | None = None  # None: regression
    augment: tuple[Augment, ...] = ()
    mean: Tensor | None = None  # (C,), in the units of the inputs: 0..255 for uint8
    std: Tensor | None = None  # (C,)
    digest: str
    description: dict[str, str | int | float] = field(default_factory=dict)
    input_shape: tuple[int, ...]  # of one input: (C, H, W) for images
    is_multilabel: bool = False  # regression targets that are all 0 or 1: whether each label is there
    weights: Tensor | None = None  # (N,) float64: how often each training image is drawn; None: once a pass
    loading: Loading = field(default_factory=Loading)  # of datasets
    notes: tuple[str, ...] = ()  # what the user should know of it

    @property
    def workers(self) -> int:
        """Processes of the DataLoader, where there is one."""
        return self.loading.workers

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
        """The test part, read on first use. Raises `HarnessError` if there is none."""
        if self.load_test is None:
            raise HarnessError(f"{self.name} has no test part to measure on.", exit_code=FAILED)
        return self.load_test()

    def to(self, device: torch.device | str) -> Data:
        """The same data with its arrays on `device`. A second call returns the same object."""
        device = torch.empty(0, device=device).device  # "cuda" becomes "cuda:0"
        parts = (self.train, self.validation)
        held = [part for part in parts if isinstance(part, Arrays)]
        moves = device.type == "cuda" and any(isinstance(part, Mapped) for part in parts)
        if not moves and all(part.inputs.device == device for part in held):
            return self
        if device not in self._moved:
            self._moved[device] = replace(
                self,
                train=_moved(self.train, device, self.augment),
                validation=_moved(self.validation, device, ()),
                load_test=None if self.load_test is None else lambda: _moved(self.test, device, ()),
                mean=None if self.mean is None else self.mean.to(device),
                std=None if self.std is None else self.std.to(device),
            )
        return self._moved[device]

    def weighted(self, weights: Tensor | Sequence[float]) -> Data:
        """The same data, with weights: each pass draws as many training images as there are, by their weights.

        `weights` (N,) holds a number for each training image: how often it is drawn, in proportion. They are
        drawn with replacement, as torch's `WeightedRandomSampler` does.
        """
        if self.loading.sampler is not None:
            raise HarnessError(f"{self.name}: there is a sampler already; weights would be a second one.")
        values = check_weights(weights, _length(self.train), self.name)
        content = hashlib.sha256(self.digest.encode() + values.numpy().tobytes())
        description = self.description | {"sampling": "weighted"}
        return replace(self, weights=values, digest=content.hexdigest(), description=description)

    def balanced(self) -> Data:
        """The same data, in which each pass draws every class equally often, whatever their sizes.

        >>> from harness.data import tensors
        >>> data = tensors(torch.zeros(60, 3), [0] * 50 + [1] * 10, validation=6).balanced()
        >>> data.weights[data.train.targets == 1].sum() / data.weights.sum()
        tensor(0.5000, dtype=torch.float64)
        """
        train = self.train
        targets = train.targets if isinstance(train, Arrays | Mapped) else loader.targets_of(train)
        if self.classes is None or targets.dtype != torch.int64:
            raise HarnessError(f"{self.name}: balanced() needs targets that are classes; give weights to weighted().")
        return self.weighted(balancing(targets))

    def steps(self, batch_size: int, *, epoch_steps: int | None = None) -> int:
        """Training batches an epoch: of one pass over the data, or `epoch_steps`.

        The last partial batch of a pass counts, except where it is one single image: batch norm cannot train
        on it.
        """
        return len(bounds(self._count, batch_size)) if epoch_steps is None else epoch_steps

    def spans(self, batch_size: int, *, epoch: int = 0, epoch_steps: int | None = None) -> Spans:
        """Where each training batch begins and ends in the result of `shuffle`: see `steps`."""
        parts = self._stretches(batch_size, epoch, epoch_steps)
        if epoch_steps is None:
            return parts[0].spans
        sizes = [stop - start for part in parts for start, stop in part.spans]
        return [(index * batch_size, index * batch_size + size) for index, size in enumerate(sizes)]

    def train_batches(
        self, *, batch_size: int, seed: int, epoch: int, device: torch.device | str, epoch_steps: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of training batches on `device`: shuffled, augmented, normalised.

        An epoch is one pass over the data, or its next `epoch_steps` batches: a pass then takes several epochs,
        or an epoch several passes, each shuffled anew. Inputs are float32, images (B, C, H, W) in channels_last
        order. Order and augmentation depend on `seed` and `epoch` (and the kind of device) and on nothing else.
        A last batch of one single image is left out. A `Dataset` whose items are random draws from the global
        generators where `workers` is 0: seed them before each epoch.
        """
        device = torch.device(device)
        for part in self._stretches(batch_size, epoch, epoch_steps):
            if isinstance(self.train, Arrays):
                yield from self.to(device)._resident.batches(part.spans, seed=seed, number=part.number)
                continue
            if isinstance(self.train, Mapped):
                yield from mapped.train_batches(
                    self.train,
                    spans=part.spans,
                    seed=seed,
                    number=part.number,
                    weights=self.weights,
                    device=device,
                    augment=self.augment,
                    mean=self.mean,
                    std=self.std,
                )
                continue
            yield from loader.train_batches(
                self.train,
                spans=part.spans,
                seed=seed,
                number=part.number,
                epoch=None if epoch_steps is None else epoch,
                weights=self.weights,
                device=device,
                loading=self.loading,
                augment=self.augment,
                mean=self.mean,
                std=self.std,
            )

    def shuffle(self, *, seed: int, epoch: int, batch_size: int | None = None, epoch_steps: int | None = None) -> Epoch:
        """An epoch of training as indices, if the data is on the device: `batch` makes batches from it.

        With `epoch_steps`, `batch_size` is needed too: each batch has that many places (the last batch of a
        pass may not use all of them), so that every epoch takes as much memory. `spans` says where they are.
        """
        if epoch_steps is None:
            return self._resident.shuffle(seed=seed, number=epoch)
        assert batch_size is not None
        parts = []
        for part in self._stretches(batch_size, epoch, epoch_steps):
            whole = self._resident.shuffle(seed=seed, number=part.number)
            starts = torch.tensor([start for start, _ in part.spans]).unsqueeze(1)
            places = (starts + torch.arange(batch_size)).clamp_(max=self._count - 1)
            parts.append(whole.at(places.flatten().to(whole.order.device)))
        return joined(parts)

    def batch(self, epoch: Epoch, places: Tensor) -> tuple[Tensor, Tensor]:
        """The training batch at the places (B,) int64 of an epoch, the same as `train_batches` gives."""
        return self._resident.batch(epoch, places)

    def batches(self, part: Part, *, batch_size: int, device: torch.device | str) -> Iterator[tuple[Tensor, Tensor]]:
        """All of a part on `device`, in order, normalised and not augmented; the last batch may be smaller."""
        device = torch.device(device)
        if isinstance(part, Mapped):
            for inputs, targets in mapped.batches(part, batch_size=batch_size, device=device):
                yield self.prepare(inputs), targets
            return
        is_training = part is self.train and part is not self.validation
        if not isinstance(part, Arrays):
            yield from loader.batches(
                part,
                batch_size=batch_size,
                device=device,
                collate=self.loading.collate if is_training else self.loading.evaluation_collate,
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
        return Resident(
            self.train.inputs,
            self.train.targets,
            weights=self.weights,
            augment=self.augment,
            mean=self.mean,
            std=self.std,
        )

    @property
    def _count(self) -> int:
        """Training images of a pass."""
        return self.loading.count or _length(self.train)

    def _stretches(self, batch_size: int, epoch: int, epoch_steps: int | None) -> list[Stretch]:
        return stretches(self._count, batch_size, epoch=epoch, epoch_steps=epoch_steps)


def _length(part: Part) -> int:
    return len(part)  # type: ignore[arg-type]  # Dataset declares no length; datasets() has asked for one


def _moved(part: Part, device: torch.device, augment: Sequence[Augment]) -> Part:
    if isinstance(part, Mapped) and part.fits(device, augment):
        return Arrays(inputs=part.held(device), targets=part.targets.to(device))
    return part.to(device) if isinstance(part, Arrays) else part
