"""The work that every peer does: the loaders, the network, and what is searched."""

import json
import os
from typing import Any

import images
from torch import nn

from harness.models import vgg16

STORE = os.environ["BENCH_STORE"]
TRIALS, EPOCHS = int(os.environ["BENCH_TRIALS"]), int(os.environ["BENCH_EPOCHS"])
TRACKING = f"sqlite:///{STORE}/mlflow.db"
MOMENTUM, LEARNING_RATE = (0.8, 0.95), (0.003, 0.1)
VALUES: list[dict[str, float]] = json.loads(os.environ["BENCH_VALUES"])  # to be tried first, in this order


def build_loaders() -> tuple[Any, Any]:
    return images.build_loaders(os.environ["BENCH_IMAGES"], workers=int(os.environ["BENCH_WORKERS"]))


def build_model() -> nn.Module:
    return vgg16(classes=10, width=8)


def tell(accuracies: list[float]) -> None:
    """The last line of a peer's output: the best validation accuracy of each trial."""
    print(json.dumps(accuracies))
