"""GoogLeNet for small images: the Inception modules of Szegedy et al. (2014), with batch norm."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from harness.models.layers import (
    PAPER_WIDTH,
    build_convolution,
    build_head,
    check_counts,
    check_dropout,
    choose_width,
    initialize,
)

# Channels of each Inception module, in the order of table 1 of the paper:
# 1x1, 1x1 before 3x3, 3x3, 1x1 before 5x5, 5x5, 1x1 after the pool.
MODULES = {
    "inception3a": (64, 96, 128, 16, 32, 32),
    "inception3b": (128, 128, 192, 32, 96, 64),
    "inception4a": (192, 96, 208, 16, 48, 64),
    "inception4b": (160, 112, 224, 24, 64, 64),
    "inception4c": (128, 128, 256, 24, 64, 64),
    "inception4d": (112, 144, 288, 32, 64, 64),
    "inception4e": (256, 160, 320, 32, 128, 128),
    "inception5a": (256, 160, 320, 32, 128, 128),
    "inception5b": (384, 192, 384, 48, 128, 128),
}


class Inception(nn.Module):
    """Four branches side by side, joined along the channels. (N, inputs, H, W) -> (N, outputs, H, W)

    1x1; 1x1 then 3x3; 1x1 then 5x5; 3x3 max-pool then 1x1. `outputs` is the sum of the branches' channels.
    """

    def __init__(self, inputs: int, one: int, before3: int, three: int, before5: int, five: int, pooled: int) -> None:
        super().__init__()
        self.outputs = one + three + five + pooled
        self.branch1 = build_convolution(inputs, one, kernel=1)
        self.branch3 = nn.Sequential(
            build_convolution(inputs, before3, kernel=1),
            build_convolution(before3, three, kernel=3),
        )
        self.branch5 = nn.Sequential(
            build_convolution(inputs, before5, kernel=1),
            build_convolution(before5, five, kernel=5),
        )
        self.branch_pool = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1),
            build_convolution(inputs, pooled, kernel=1),
        )

    def forward(self, images: Tensor) -> Tensor:
        branches = (self.branch1, self.branch3, self.branch5, self.branch_pool)
        return torch.cat([branch(images) for branch in branches], dim=1)


def googlenet(classes: int = 10, channels: int = 3, width: int = PAPER_WIDTH, dropout: float = 0.0) -> nn.Sequential:
    """GoogLeNet for small images. (N, channels, H, W) -> (N, classes)

    The nine Inception modules of Szegedy et al. (2014), with batch norm after each convolution. For small
    images the first layers keep the size (a 3x3 convolution, then the paper's 1x1 and 3x3): 32x32 images are
    8x8 in the last modules. There are no auxiliary heads, which batch norm makes needless, and no response
    normalisation. `width` scales all channels; 64, those of the first layer, is the paper's.

    Any size works; images of 4x4 and below need batches of two or more to train on. Initial weights:
    He et al. (2015). Under `--demo` a width of 64 or more becomes 8. Raises `HarnessError` where an argument
    is out of range.

    >>> import torch
    >>> googlenet(classes=10, width=8)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    check_counts("googlenet", classes=classes, channels=channels, width=width)
    check_dropout("googlenet", dropout)
    width = choose_width(width)
    stem = _scale(192, width)
    layers = OrderedDict[str, nn.Module](
        stem1=build_convolution(channels, width, kernel=3),
        stem2=build_convolution(width, width, kernel=1),
        stem3=build_convolution(width, stem, kernel=3),
    )
    inputs = stem
    for name, sizes in MODULES.items():
        if name in ("inception4a", "inception5a"):
            layers[f"pool{name[9]}"] = nn.MaxPool2d(3, stride=2, padding=1)
        module = Inception(inputs, *(_scale(size, width) for size in sizes))
        layers[name], inputs = module, module.outputs
    return initialize(nn.Sequential(layers | build_head(inputs, classes, dropout)))


def _scale(channels: int, width: int) -> int:
    return max(1, round(channels * width / PAPER_WIDTH))
