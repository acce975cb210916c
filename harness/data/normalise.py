"""From stored inputs to float32 with mean 0 and standard deviation 1 a channel."""

import numpy as np
import torch
from torch import Tensor


def channels_last(images: Tensor) -> Tensor:
    """Images (N, C, H, W) as contiguous (N, H, W, C): no copy where they are in channels_last order already."""
    return images.permute(0, 2, 3, 1).contiguous()


def normalised(inputs: Tensor, mean: Tensor | None, std: Tensor | None) -> Tensor:
    """Inputs (N, C, ...) as float32, less the mean (C,), over the standard deviation (C,)."""
    if inputs.ndim == 4:
        return normalised_images(channels_last(inputs), mean, std).permute(0, 3, 1, 2)
    values = inputs.to(torch.float32)
    if mean is None or std is None:
        return values
    shape = (-1, *[1] * (inputs.ndim - 2))
    return (values - mean.to(values.device).view(shape)) / std.to(values.device).view(shape)


def normalised_images(images: Tensor, mean: Tensor | None, std: Tensor | None) -> Tensor:
    """Images (N, H, W, C) as float32, normalised in place.

    Mean and std are repeated to the length of a row: a last dimension of three values would be computed
    three at a time (4 times slower on a CPU).
    """
    count, height, width, channels = images.shape
    values = images.to(torch.float32, copy=True)
    if mean is not None and std is not None:
        rows = values.view(count, height, width * channels)
        rows.sub_(mean.to(values.device).repeat(width)).div_(std.to(values.device).repeat(width))
    return values


def mean_and_std(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (C,) a channel of inputs (N, C, ...), 1 where a channel is constant.

    uint8 is summed in whole numbers, so the result is the same to the bit on every machine.
    """
    if inputs.dtype == torch.uint8 and inputs.ndim == 4:
        values = channels_last(inputs).view(-1, inputs.shape[1])  # (pixels, C)
        counts = np.stack([np.bincount(column, minlength=256) for column in values.T.contiguous().numpy()])
        levels = np.arange(256)
        total = counts.sum(1)
        first, second = (counts * levels).sum(1) / total, (counts * levels**2).sum(1) / total
        variance = second - first**2
    else:
        array = inputs.movedim(1, -1).reshape(-1, inputs.shape[1]).numpy().astype(np.float64)
        first, variance = array.mean(0), array.var(0)
    deviation = np.sqrt(np.maximum(variance, 0.0))
    deviation[deviation < 1e-8 * np.maximum(1.0, np.abs(first))] = 1.0
    return torch.tensor(first, dtype=torch.float32), torch.tensor(deviation, dtype=torch.float32)
