"""What the networks share: the convolution block, initial weights, checked arguments, the width of a demo."""

from collections import OrderedDict

from torch import nn

from harness.demo import is_demo
from harness.errors import HarnessError

PAPER_WIDTH = 64
DEMO_WIDTH = 8


def choose_width(width: int) -> int:
    """The width to build: `DEMO_WIDTH` under `--demo` where a full-size or larger network is asked for."""
    return DEMO_WIDTH if is_demo() and width >= PAPER_WIDTH else width


def check_counts(function: str, **counts: int) -> None:
    """Raises `HarnessError` where a count is not a whole number of at least 1."""
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise HarnessError(f"{function}: {name} must be a whole number of at least 1, not {count!r}.")


def check_dropout(function: str, dropout: float) -> None:
    """Raises `HarnessError` where `dropout` is no probability below 1."""
    if not 0 <= dropout < 1:
        raise HarnessError(f"{function}: dropout must be at least 0 and below 1, not {dropout!r}.")


def build_convolution(inputs: int, outputs: int, kernel: int, pool: nn.MaxPool2d | None = None) -> nn.Sequential:
    """A convolution that keeps the size, batch norm, ReLU, a pool if any. (N, inputs, H, W) -> (N, outputs, H, W)

    The pool stands before the ReLU: of 2x2 pixels both orders have the same maximum and the same gradient, bit for
    bit, and this one leaves the ReLU a quarter of the work.
    """
    layers = OrderedDict[str, nn.Module](
        conv=nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),  # batch norm has the bias
        norm=nn.BatchNorm2d(outputs),
    )
    if pool is not None:
        layers["pool"] = pool
    layers["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def build_head(inputs: int, classes: int, dropout: float) -> OrderedDict[str, nn.Module]:
    """The mean over the image, dropout, and one linear layer. (N, inputs, H, W) -> (N, classes)"""
    return OrderedDict(
        mean=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        dropout=nn.Dropout(dropout),
        head=nn.Linear(inputs, classes),
    )


def initialize(model: nn.Sequential) -> nn.Sequential:
    """Draws the initial weights of the layers that a ReLU follows, in order; returns the model.

    As He et al. (2015), which keeps the variance of a signal from layer to layer; biases are 0. The layer
    named `head`, which no ReLU follows, keeps torch's own smaller weights.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and name != "head":
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return model
