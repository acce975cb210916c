"""The work that every peer does: the data set, the loaders, the network, and the ranges that are searched."""

import json
import os
from typing import Any

import numpy as np
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from harness.models import vgg16

IMAGES, STORE = os.environ["BENCH_IMAGES"], os.environ["BENCH_STORE"]
TRIALS, EPOCHS = int(os.environ["BENCH_TRIALS"]), int(os.environ["BENCH_EPOCHS"])
WORKERS = int(os.environ["BENCH_WORKERS"])
TRACKING = f"sqlite:///{STORE}/mlflow.db"
BATCH_SIZE, MOMENTUM, LEARNING_RATE = 64, (0.8, 0.95), (0.003, 0.1)
NORMALIZE = transforms.Normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
AUGMENT = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]


class Images(Dataset[Any]):
    """Images as torchvision's own data sets keep them: arrays, opened as PIL images, one by one."""

    def __init__(self, part: str) -> None:
        with np.load(IMAGES) as arrays:
            self.images, self.labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        augment = AUGMENT if part == "train" else []
        self.transform = transforms.Compose([transforms.ToPILImage(), *augment, transforms.ToTensor(), NORMALIZE])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(self.images[index]), int(self.labels[index])


def build_loaders() -> tuple[DataLoader[Any], DataLoader[Any]]:
    common: dict[str, Any] = {"num_workers": WORKERS, "persistent_workers": WORKERS > 0}
    return (
        DataLoader(Images("train"), batch_size=BATCH_SIZE, shuffle=True, **common),
        DataLoader(Images("validation"), batch_size=256, **common),
    )


def build_model() -> nn.Module:
    return vgg16(classes=10, width=8)


def tell(accuracies: list[float]) -> None:
    """The last line of a peer's output: the best validation accuracy of each trial."""
    print(json.dumps(accuracies))
