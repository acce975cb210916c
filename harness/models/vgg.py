"""VGG for small images: Simonyan and Zisserman (2014), with batch norm and one linear layer at the end."""

from collections import OrderedDict

from torch import nn

from harness.models.layers import (
    PAPER_WIDTH,
    build_convolution,
    build_head,
    check_counts,
    check_dropout,
    choose_width,
    initialize,
)

# Convolutions in each of the five blocks: table 1 of the paper.
CONFIGURATIONS = {
    "vgg11": (1, 1, 2, 2, 2),  # A
    "vgg13": (2, 2, 2, 2, 2),  # B
    "vgg16": (2, 2, 3, 3, 3),  # D
    "vgg19": (2, 2, 4, 4, 4),  # E
}
WIDTHS = (1, 2, 4, 8, 8)  # channels of each block, in units of the first block's


def vgg11(classes: int = 10, channels: int = 3, width: int = PAPER_WIDTH, dropout: float = 0.0) -> nn.Sequential:
    """VGG-11, configuration A: 8 convolutions and one linear layer. See `vgg16`."""
    return _build_vgg("vgg11", classes, channels, width, dropout)


def vgg13(classes: int = 10, channels: int = 3, width: int = PAPER_WIDTH, dropout: float = 0.0) -> nn.Sequential:
    """VGG-13, configuration B: 10 convolutions and one linear layer. See `vgg16`."""
    return _build_vgg("vgg13", classes, channels, width, dropout)


def vgg16(classes: int = 10, channels: int = 3, width: int = PAPER_WIDTH, dropout: float = 0.0) -> nn.Sequential:
    """VGG-16, configuration D: 13 convolutions and one linear layer. (N, channels, H, W) -> (N, classes)

    3x3 convolutions in five blocks of `width` times 1, 2, 4, 8 and 8 channels, each followed by batch norm,
    each block by a 2x2 max-pool: Simonyan and Zisserman (2014), where `width` is 64. In place of the paper's
    three linear layers there is one, after `dropout`, on the mean of the last block over the image.

    Any size works. 32x32 images leave the last block as 1x1. A pool rounds an odd size up (28, 14, 7, 4, 2,
    1) and leaves 1x1 as it is, so images of 16x16 and below are pooled fewer times; batch norm then needs
    batches of two images or more to train on. Initial weights: He et al. (2015).

    Under `--demo` a width of 64 or more becomes 8. Raises `HarnessError` where an argument is out of range.

    >>> import torch
    >>> vgg16(classes=10, width=8)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    return _build_vgg("vgg16", classes, channels, width, dropout)


def vgg19(classes: int = 10, channels: int = 3, width: int = PAPER_WIDTH, dropout: float = 0.0) -> nn.Sequential:
    """VGG-19, configuration E: 16 convolutions and one linear layer. See `vgg16`."""
    return _build_vgg("vgg19", classes, channels, width, dropout)


def _build_vgg(name: str, classes: int, channels: int, width: int, dropout: float) -> nn.Sequential:
    check_counts(name, classes=classes, channels=channels, width=width)
    check_dropout(name, dropout)
    width = choose_width(width)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for block, (convolutions, factor) in enumerate(zip(CONFIGURATIONS[name], WIDTHS, strict=True), start=1):
        for number in range(1, convolutions + 1):
            pool = nn.MaxPool2d(2, ceil_mode=True) if number == convolutions else None
            layers[f"block{block}_{number}"] = build_convolution(channels, factor * width, kernel=3, pool=pool)
            channels = factor * width
    return initialize(nn.Sequential(layers | build_head(channels, classes, dropout)))
