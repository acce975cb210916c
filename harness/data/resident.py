"""A training part that lives on the device: an epoch is an index into it."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from harness.data.augment import Draws, cut_out, draw, flipped, generator_for, pad, windows
from harness.data.normalise import channels_last, normalised, normalised_images


class Resident:
    """Training inputs laid out so that any augmented batch is a handful of operations on the device.

    Images are kept as (N, H, W, C), for crops with their padding around them. Nothing here waits for the
    device or touches single images.
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        *,
        augment: Sequence[str],
        mean: Tensor | None,
        std: Tensor | None,
    ) -> None:
        self.targets, self.augment = targets, tuple(augment)
        self.mean, self.std = mean, std
        self.shape = tuple(inputs.shape[1:])  # (C, H, W) for images
        self.is_image = inputs.ndim == 4
        self.stored = channels_last(inputs) if self.is_image else inputs.contiguous()
        if "crop" in self.augment:
            self.stored = pad(self.stored)

    def batches(self, spans: Sequence[tuple[int, int]], *, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch: the batches that begin and end at `spans` of its random order."""
        generator = generator_for(seed, epoch, self.targets.device)
        order = torch.randperm(len(self.targets), generator=generator, device=self.targets.device)
        targets = self.targets.index_select(0, order)
        height, width = self.shape[1:] if self.is_image else (0, 0)
        draws = draw(self.augment, len(order), height, width, generator)
        for start, stop in spans:
            yield self.inputs(order[start:stop], draws, start, stop), targets[start:stop]

    def inputs(self, images: Tensor, draws: Draws, start: int, stop: int) -> Tensor:
        """The inputs `images` (B,), with what was drawn for the places `start` to `stop` of the epoch."""
        if not self.is_image:
            chosen = self.stored.view(len(self.stored), -1).index_select(0, images)
            return normalised(chosen.view(-1, *self.shape), self.mean, self.std)
        channels, height, width = self.shape
        if draws.offsets is not None:
            batch = windows(self.stored, images, draws.offsets[start:stop], height, width)
        else:
            rows = self.stored.view(len(self.stored), -1).index_select(0, images)
            batch = rows.view(-1, height, width, channels)
        return finished(batch, draws, start, stop, self.mean, self.std)


def finished(images: Tensor, draws: Draws, start: int, stop: int, mean: Tensor | None, std: Tensor | None) -> Tensor:
    """Flips, normalises and cuts images (B, H, W, C); gives (B, C, H, W) float32 in channels_last order."""
    if draws.flips is not None:
        images = flipped(images, draws.flips[start:stop])
    values = normalised_images(images, mean, std)
    if draws.cuts is not None:  # after the normalisation: what is cut out is the mean, as in the paper
        cut_out(values, draws.cuts[:, start:stop])
    return values.permute(0, 3, 1, 2)
