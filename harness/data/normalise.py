"""Converts stored inputs to float32, with mean 0 and standard deviation 1 in each channel."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def channels_last(images: Tensor) -> Tensor:
    """Images (N, C, H, W) as contiguous (N, H, W, C), without a copy if they are in channels_last order."""
    return images.permute(0, 2, 3, 1).contiguous()


def normalised(inputs: Tensor, mean: Tensor | None, std: Tensor | None) -> Tensor:
    """Inputs (N, C, ...) as float32, less the mean (C,), over the standard deviation (C,)."""
    if inputs.ndim == 4:
        return normalised_images(channels_last(inputs), mean, std).permute(0, 3, 1, 2)
    values = inputs.to(torch.float32)
    if mean is None or std is None:
        return values
    shape = (-1, *[1] * (inputs.ndim - 2))
    return (values - mean.to(values.device).view(shape)) * std.to(values.device).reciprocal().view(shape)


def normalised_images(images: Tensor, mean: Tensor | None, std: Tensor | None) -> Tensor:
    """Images (N, H, W, C) as float32, normalised in place.

    Mean and std are repeated to the length of a row: a last dimension of three values would be computed
    three at a time (4 times slower on a CPU).
    """
    count, height, width, channels = images.shape
    values = images.to(torch.float32, copy=True)
    if mean is not None and std is not None:
        rows = values.view(count, height, width * channels)
        scale = std.to(values.device).reciprocal()  # multiplying takes half the time of dividing
        rows.sub_(mean.to(values.device).repeat(width)).mul_(scale.repeat(width))
    return values


def mean_and_std(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (C,) a channel of inputs (N, C, ...), 1 where a channel is constant.

    uint8 is summed in whole numbers, so the result is the same to the bit on every machine.
    """
    if inputs.dtype == torch.uint8 and inputs.ndim == 4:
        mean, variance = _of_bytes(channels_last(inputs))
    else:
        values = inputs.movedim(1, -1).reshape(-1, inputs.shape[1]).numpy().astype(np.float64)
        mean, variance = values.mean(0), values.var(0)
    return as_mean_and_std(mean, variance)


def as_mean_and_std(mean: npt.NDArray[np.float64], variance: npt.NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation as batches are normalised with: 1 where a channel is constant."""
    std = np.sqrt(np.maximum(variance, 0))
    std[std < 1e-8 * np.maximum(1, np.abs(mean))] = 1
    return torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32)


def _of_bytes(images: Tensor) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and variance a channel of images (N, H, W, C) uint8.

    The squares of 256 values from 0..255 have a sum below 2**24, which float32 holds exactly in any order.
    """
    channels = images.shape[3]
    rows = images.view(-1, images.shape[2] * channels)
    sums = torch.zeros(2, rows.shape[1], dtype=torch.float64)
    for start in range(0, len(rows), 2**14):
        values = rows[start : start + 2**14].to(torch.float32)
        missing = -len(values) % 256
        if missing:
            values = torch.cat((values, values.new_zeros(missing, values.shape[1])))
        groups = values.view(-1, 256, values.shape[1])
        sums[0] += groups.sum(1).to(torch.float64).sum(0)
        sums[1] += groups.square_().sum(1).to(torch.float64).sum(0)
    total, squares = sums.view(2, -1, channels).sum(1).numpy() / (images.numel() // channels)
    return total, squares - total**2
