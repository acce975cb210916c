"""A training part that is kept on the device: an epoch is an index into it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.data.augment import Augment, Draws, cut_out, draw, flipped, generator_for, pad, windows
from harness.data.normalise import channels_last, normalised, normalised_images
from harness.data.order import shuffled
from harness.data.photographs import enlarged, tinted
from harness.errors import FAILED, HarnessError


class Resident:
    """Training inputs in a layout from which an augmented batch takes only a few operations on the device.

    Images are kept as (N, H, W, C), with padding if they are cropped. Nothing here waits for the device or
    handles single images.
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        *,
        augment: Sequence[Augment],
        mean: Tensor | None,
        std: Tensor | None,
        weights: Tensor | None = None,
    ) -> None:
        self.targets, self.weights, self.augment = targets, weights, tuple(augment)
        self.mean, self.std = mean, std
        self.shape = tuple(inputs.shape[1:])  # (C, H, W) for images
        self.is_image = inputs.ndim == 4
        self.stored = channels_last(inputs) if self.is_image else inputs.contiguous()
        if "crop" in self.augment:
            self.stored = pad(self.stored)

    def shuffle(self, *, seed: int, number: int) -> "Epoch":
        """The random order of pass `number` over the data, and its other random choices."""
        generator = generator_for(seed, number, self.targets.device)
        order = shuffled(len(self.targets), self.weights, generator)
        height, width = self.shape[1:] if self.is_image else (0, 0)
        draws = draw(self.augment, len(order), height, width, generator)
        return Epoch(order=order, targets=self.targets.index_select(0, order), draws=draws)

    def batches(self, spans: Sequence[tuple[int, int]], *, seed: int, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches that begin and end at `spans` of the random order of pass `number`."""
        epoch = self.shuffle(seed=seed, number=number)
        for start, stop in spans:
            yield self.batch(epoch, slice(start, stop))

    def batch(self, epoch: "Epoch", places: slice | Tensor) -> tuple[Tensor, Tensor]:
        """The batch of these places of an epoch: a slice, or indices (B,) int64 on the device."""
        return self._inputs(epoch.order[places], epoch.draws.at(places)), epoch.targets[places]

    def _inputs(self, images: Tensor, draws: Draws) -> Tensor:
        """The inputs `images` (B,), with what was drawn for them."""
        if not self.is_image:
            chosen = self.stored.view(len(self.stored), -1).index_select(0, images)
            return normalised(chosen.view(-1, *self.shape), self.mean, self.std)
        channels, height, width = self.shape
        if draws.offsets is not None:
            batch = windows(self.stored, images, draws.offsets, height, width)
        else:
            rows = self.stored.view(len(self.stored), -1).index_select(0, images)
            batch = rows.view(-1, height, width, channels)
        return finished(batch, draws, self.augment, self.mean, self.std)


@dataclass(frozen=True, kw_only=True, eq=False)
class Epoch:
    """An epoch of N images as indices. Images are computed only when a batch is made."""

    order: Tensor  # (N,) int64
    targets: Tensor  # (N, ...), in that order
    draws: Draws

    def copy_(self, other: "Epoch") -> None:
        """Copies another epoch's values into the memory of this one."""
        own, others = self.tensors(), other.tensors()
        for tensor, value in zip(own, others, strict=True):
            tensor.copy_(value)

    def tensors(self) -> list[Tensor]:
        """All that an epoch consists of."""
        return [self.order, self.targets, *self.draws.tensors()]

    def at(self, places: Tensor) -> "Epoch":
        """The epoch that consists of these places (M,) int64 of this one."""
        return Epoch(order=self.order[places], targets=self.targets[places], draws=self.draws.at(places))


def joined(parts: Sequence[Epoch]) -> Epoch:
    """Parts of passes, one after the other."""
    return Epoch(
        order=torch.cat([part.order for part in parts]),
        targets=torch.cat([part.targets for part in parts]),
        draws=Draws.joined([part.draws for part in parts]),
    )


def augmented(
    images: Tensor, draws: Draws, augment: Sequence[Augment], mean: Tensor | None, std: Tensor | None
) -> Tensor:
    """A batch of images (B, H, W, C) as stored, with what was drawn for them: see `finished`."""
    if draws.offsets is not None:
        places = torch.arange(len(images), device=images.device)
        images = windows(pad(images), places, draws.offsets, images.shape[1], images.shape[2])
    return finished(images, draws, augment, mean, std)


def finished(
    images: Tensor, draws: Draws, augment: Sequence[Augment], mean: Tensor | None, std: Tensor | None
) -> Tensor:
    """What comes after the crop by pixels, for images (B, H, W, C); gives (B, C, H, W) float32 in channels_last order.

    In this order: a part enlarged, flip, colours, the user's functions, normalisation, cutout.
    """
    if draws.boxes is not None:
        images = enlarged(images, draws.boxes)
    if draws.flips is not None:
        images = flipped(images, draws.flips)
    if draws.tints is not None:
        images = tinted(images, draws.tints)
    for function in augment:
        if callable(function):
            images = _by_user(function, images.permute(0, 3, 1, 2))
    values = normalised_images(images, mean, std)
    if draws.cuts is not None:  # after the normalisation: the cut square has the mean, as in the paper
        cut_out(values, draws.cuts)
    return values.permute(0, 3, 1, 2)


def _by_user(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """What a user's function makes of images (B, C, H, W), as (B, H, W, C)."""
    made = function(images)
    if not isinstance(made, Tensor) or made.ndim != 4 or made.shape[:2] != images.shape[:2]:
        found = f"a tensor of shape {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
        raise HarnessError(
            f"augment: a function got images of shape {tuple(images.shape)} and gave {found}; it must give as many "
            "images, of as many channels.",
            exit_code=FAILED,
        )
    return channels_last(made)
