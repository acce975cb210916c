"""Augmentation that photographs get: a part of the image enlarged to the whole, and other light and colours."""

import math

import torch
from torch import Tensor
from torch.nn import functional

SCALES = (0.08, 1.0)  # of the image's area, as in torchvision's RandomResizedCrop (Szegedy et al. 2014)
RATIOS = (3 / 4, 4 / 3)  # of width to height
TRIES = 10  # to find a part that lies within the image; else the middle
STRENGTH = 0.4  # brightness, contrast and saturation change by up to so much, as in most ImageNet recipes
GREY = (0.299, 0.587, 0.114)  # what red, green and blue weigh in the brightness that is seen


def draw_boxes(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Top, left, height and width (4, N) int64 of a part of each image."""

    def uniform(low: float, high: float) -> Tensor:
        values = torch.rand(TRIES, count, generator=generator, device=generator.device)
        return low + (high - low) * values

    area = height * width * uniform(*SCALES)
    ratio = uniform(math.log(RATIOS[0]), math.log(RATIOS[1])).exp()
    heights, widths = (area / ratio).sqrt().round().long(), (area * ratio).sqrt().round().long()
    fits = (heights >= 1) & (heights <= height) & (widths >= 1) & (widths <= width)
    first = fits.to(torch.uint8).argmax(0, keepdim=True)  # the first try that fits
    fits = fits.gather(0, first)[0]
    side = min(height, width)  # a square's ratio is among RATIOS
    tall = torch.where(fits, heights.gather(0, first)[0], side)
    wide = torch.where(fits, widths.gather(0, first)[0], side)
    places = torch.rand(2, count, generator=generator, device=generator.device)
    top, left = (places[0] * (height - tall + 1)).long(), (places[1] * (width - wide + 1)).long()
    return torch.stack((top, left, tall, wide))


def draw_tints(count: int, generator: torch.Generator) -> Tensor:
    """Factors (3, N) of brightness, contrast and saturation for each image."""
    return 1 + STRENGTH * (2 * torch.rand(3, count, generator=generator, device=generator.device) - 1)


def enlarged(images: Tensor, boxes: Tensor) -> Tensor:
    """The part `boxes` (4, B) of each image (B, H, W, C), enlarged to the whole, bilinearly; uint8 stays uint8.

    The same as torchvision's crop and resize: a part is never larger than the whole.
    """
    if images.dtype == torch.uint8 and images.device.type == "cpu":
        return _enlarged_one_by_one(images, boxes)
    count, height, width, channels = images.shape
    top, left, tall, wide = boxes
    upper, lower, share = _between(top, tall, height)
    rows = images.reshape(count * height, width * channels)
    starts = torch.arange(count, device=images.device).unsqueeze(1) * height
    values = rows.index_select(0, (starts + upper).flatten()).to(torch.float32)
    others = rows.index_select(0, (starts + lower).flatten()).to(torch.float32)
    values.lerp_(others, share.reshape(-1, 1))
    first, second, share = _between(left, wide, width)
    values = values.view(count, height, width * channels)
    offsets = torch.arange(channels, device=images.device)

    def columns(places: Tensor) -> Tensor:
        chosen = (places.unsqueeze(2) * channels + offsets).view(count, 1, width * channels)
        return values.gather(2, chosen.expand(count, height, width * channels))

    shares = share.repeat_interleave(channels, dim=1).unsqueeze(1)
    found: Tensor = columns(first).lerp_(columns(second), shares).view(images.shape)
    return found.round_().to(torch.uint8) if images.dtype == torch.uint8 else found


def _enlarged_one_by_one(images: Tensor, boxes: Tensor) -> Tensor:
    """On a CPU torch resizes single images of bytes several times as fast."""
    found = torch.empty_like(images)
    size = list(images.shape[1:3])
    for image, made, (top, left, tall, wide) in zip(images, found, boxes.T.tolist(), strict=True):
        part = image[top : top + tall, left : left + wide].permute(2, 0, 1).unsqueeze(0)
        whole = functional.interpolate(part, size=size, mode="bilinear", align_corners=False, antialias=True)
        made.copy_(whole[0].permute(1, 2, 0))
    return found


def _between(start: Tensor, length: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each of `size` new pixels (B, size): the two old ones that it lies between, and how near the second is."""
    places = torch.arange(size, device=start.device, dtype=torch.float32) + 0.5
    exact = (places * (length / size).unsqueeze(1) - 0.5).clamp_(min=0)
    before = exact.floor()
    after = torch.minimum(before + 1, (length - 1).unsqueeze(1))
    begin = start.unsqueeze(1)
    return begin + before.long(), begin + after.long(), exact - before


def tinted(images: Tensor, tints: Tensor) -> Tensor:
    """Images (B, H, W, C) of values 0 to 255 in other light, contrast and colours; uint8 stays uint8."""
    found = torch.empty_like(images)
    step = 1 if images.device.type == "cpu" else max(1, len(images))  # one image fits into a core's cache
    for start in range(0, len(images), step):
        values = _tinted(images[start : start + step].permute(0, 3, 1, 2), tints[:, start : start + step])
        found[start : start + step].permute(0, 3, 1, 2).copy_(values)
    return found


def _tinted(images: Tensor, tints: Tensor) -> Tensor:
    """Images (B, C, H, W), computed channel by channel: each is one run of memory."""
    brightness, contrast, saturation = tints.view(3, -1, 1, 1, 1)
    values = images.to(torch.float32, memory_format=torch.contiguous_format).mul_(brightness).clamp_(0, 255)
    values.lerp_(_grey(values).mean((2, 3), keepdim=True), 1 - contrast).clamp_(0, 255)
    if images.shape[1] == 3:
        values.lerp_(_grey(values), 1 - saturation).clamp_(0, 255)
    return values.round_() if images.dtype == torch.uint8 else values


def _grey(values: Tensor) -> Tensor:
    """The brightness (B, 1, H, W) of images (B, C, H, W)."""
    if values.shape[1] != 3:
        return values.mean(1, keepdim=True)
    red, green, blue = values.unbind(1)
    return (red * GREY[0]).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2]).unsqueeze(1)
