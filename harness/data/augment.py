"""Augmentation of a whole batch at once, on the device. The random numbers are drawn for each image once a pass."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from harness.data.photographs import draw_boxes, draw_tints
from harness.errors import HarnessError, did_you_mean

AUGMENTATIONS = ("crop", "flip", "cutout", "random_resized_crop", "color_jitter")
Augment = str | Callable[[Tensor], Tensor]  # a name, or a function of a batch of images (B, C, H, W)


def check_augment(augment: Sequence[Augment] | Augment, *, images: bool) -> tuple[Augment, ...]:
    """Names and functions as a tuple; raises `HarnessError` for unknown names and for data that is no image."""
    given = (augment,) if isinstance(augment, str) or callable(augment) else tuple(augment)
    for name in given:
        if name not in AUGMENTATIONS and not callable(name):
            options = ", ".join(f"'{option}'" for option in AUGMENTATIONS)
            hint = did_you_mean(str(name), AUGMENTATIONS)
            raise HarnessError(f"augment: there is no {name!r}, only {options}, or functions of a batch.{hint}")
    if given and not images:
        raise HarnessError(f"augment={given!r} needs images (N, C, H, W); these inputs are not images.")
    if "crop" in given and "random_resized_crop" in given:
        raise HarnessError("augment: 'crop' and 'random_resized_crop' are two ways to crop; choose one.")
    return (*(name for name in AUGMENTATIONS if name in given), *(name for name in given if callable(name)))


def augment_names(augment: Sequence[Augment]) -> tuple[str, ...]:
    """What the augmentations are called, functions by their own names."""
    return tuple(one if isinstance(one, str) else getattr(one, "__name__", type(one).__name__) for one in augment)


def padding(height: int, width: int) -> tuple[int, int]:
    """The most pixels by which a crop moves an image: 4 of 32 (He et al. 2015), in proportion for other sizes."""
    return max(1, round(height / 8)), max(1, round(width / 8))


def pad(images: Tensor) -> Tensor:
    """Puts `padding` zeros (black) around images (N, H, W, C)."""
    count, height, width, channels = images.shape
    y, x = padding(height, width)
    padded = images.new_zeros(count, height + 2 * y, width + 2 * x, channels)
    padded[:, y : y + height, x : x + width] = images
    return padded


def generator_for(seed: int, epoch: int | str, device: torch.device) -> torch.Generator:
    """A random generator that depends only on seed and epoch; (1, 2) and (2, 1) give different ones."""
    return torch.Generator(device=device).manual_seed(number_for(seed, epoch))


def number_for(seed: int, epoch: int | str) -> int:
    """The seed of the random generators of an epoch."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{epoch}".encode()).digest()[:7], "big")


@dataclass(frozen=True, kw_only=True, eq=False)
class Draws:
    """The random choices for the N images of a pass, in the order of training."""

    offsets: Tensor | None = None  # (N,) the pixel of the padded image at which the window begins
    flips: Tensor | None = None  # (N,) 0 or 1
    cuts: Tensor | None = None  # (2, N) row and column of the middle of the square that is cut out
    boxes: Tensor | None = None  # (4, N) top, left, height and width of the part that is enlarged to the whole
    tints: Tensor | None = None  # (3, N) factors of brightness, contrast and saturation

    def at(self, places: slice | Tensor) -> "Draws":
        """The choices for the images at these places of the pass: a slice, or indices (B,) int64."""
        return Draws(**{name: tensor[..., places] for name, tensor in self._named().items()})

    def tensors(self) -> list[Tensor]:
        """The tensors that are not None."""
        return list(self._named().values())

    @staticmethod
    def joined(parts: "Sequence[Draws]") -> "Draws":
        """The choices for the images of several parts, one after the other."""
        named = [part._named() for part in parts]
        return Draws(**{name: torch.cat([part[name] for part in named], dim=-1) for name in named[0]})

    def _named(self) -> dict[str, Tensor]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in values.items() if tensor is not None}


def draw(augment: Sequence[Augment], count: int, height: int, width: int, generator: torch.Generator) -> Draws:
    """Draws the augmentation of a whole pass at once."""

    def integers(high: int) -> Tensor:
        return torch.randint(0, high, (count,), generator=generator, device=generator.device)

    offsets = flips = cuts = boxes = tints = None
    if "crop" in augment:
        y, x = padding(height, width)
        offsets = integers(2 * y + 1) * (width + 2 * x) + integers(2 * x + 1)
    if "flip" in augment:
        flips = integers(2)
    if "cutout" in augment:
        cuts = torch.stack((integers(height), integers(width)))
    if "random_resized_crop" in augment:
        boxes = draw_boxes(count, height, width, generator)
    if "color_jitter" in augment:
        tints = draw_tints(count, generator)
    return Draws(offsets=offsets, flips=flips, cuts=cuts, boxes=boxes, tints=tints)


def windows(padded: Tensor, images: Tensor, offsets: Tensor, height: int, width: int) -> Tensor:
    """Cuts one window (H, W) out of each of the padded images `images` (B,).

    A row of a window is W * C values, side by side in memory. So a batch is a gather of B * H rows, from a view in
    which each such group of values is a row. (Indexing a view of all windows takes 4 to 5 times as long on a CPU.)
    """
    count, padded_height, padded_width, channels = padded.shape
    pixels = count * padded_height * padded_width
    runs = padded.as_strided((pixels - width + 1, width * channels), (channels, 1))
    first = images * (padded_height * padded_width) + offsets
    rows = first.unsqueeze(1) + torch.arange(0, height * padded_width, padded_width, device=padded.device)
    return runs.index_select(0, rows.flatten()).view(-1, height, width, channels)


def flipped(images: Tensor, flips: Tensor) -> Tensor:
    """Mirrors those images (B, H, W, C) whose flip (B,) is 1. (`torch.where` takes 3 times as long.)"""
    both = torch.stack((images, images.flip(2)), dim=1)
    chosen = torch.arange(0, 2 * len(images), 2, device=images.device) + flips
    return both.view(2 * len(images), -1).index_select(0, chosen).view(images.shape)


def cut_out(values: Tensor, cuts: Tensor) -> None:
    """Sets a square in each of the images (B, H, W, C) float32 to 0, its side a quarter of the image's.

    Cutout (DeVries and Taylor 2017), with 8 pixels of 32. The middle `cuts` (2, B) may be any pixel, so the
    square may stick out of the image.
    """
    count, height, width, channels = values.shape
    side = max(1, min(height, width) // 4)
    top, left = (cuts - side // 2).unsqueeze(2)  # (B, 1) each
    y = torch.arange(height, device=cuts.device) - top
    x = torch.arange(width, device=cuts.device).repeat_interleave(channels) - left
    rows = ((y >= 0) & (y < side)).to(torch.float32)  # (B, H)
    columns = ((x >= 0) & (x < side)).to(torch.float32)  # (B, W * C)
    lines = values.view(count, height, width * channels)
    # v - v * 1 is exactly 0; masks of bool take 4 times as long on a CPU.
    lines.addcmul_(lines, rows.unsqueeze(2) * columns.unsqueeze(1), value=-1)
