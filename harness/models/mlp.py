"""The multi-layer perceptron."""

import itertools
from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from harness.models.layers import check_counts, check_dropout, initialize


def mlp(inputs: int, classes: int, hidden: Sequence[int] = (256, 128), dropout: float = 0.0) -> nn.Sequential:
    """A multi-layer perceptron: linear layers with ReLU and dropout between them. (N, ...) -> (N, classes)

    `inputs` is the number of values of one example, which is flattened: 784 for 28x28 images. For a
    regression, `classes` is the number of targets. Initial weights: He et al. (2015). Raises `HarnessError`
    where an argument is out of range.

    >>> import torch
    >>> mlp(784, 10, hidden=(64,))(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    check_counts("mlp", inputs=inputs, classes=classes)
    for units in hidden:
        check_counts("mlp", hidden=units)
    check_dropout("mlp", dropout)
    layers = OrderedDict[str, nn.Module](flatten=nn.Flatten())
    for number, (before, units) in enumerate(itertools.pairwise([inputs, *hidden]), start=1):
        layers[f"linear{number}"] = nn.Linear(before, units)
        layers[f"relu{number}"] = nn.ReLU(inplace=True)
        layers[f"dropout{number}"] = nn.Dropout(dropout)
    layers["head"] = nn.Linear(hidden[-1] if hidden else inputs, classes)
    return initialize(nn.Sequential(layers))
