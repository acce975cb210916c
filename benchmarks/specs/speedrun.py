"""`experiments/speedrun_cifar.py` on the images of BENCH_IMAGES."""

import os
import sys
from functools import cache
from pathlib import Path

import numpy as np
import torch

from harness.data import tensors

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

import speedrun_cifar


@cache
def load():
    with np.load(os.environ["BENCH_IMAGES"]) as arrays:
        parts = {name: torch.from_numpy(arrays[name]) for name in arrays}
    return tensors(
        parts["train_images"].permute(0, 3, 1, 2),
        parts["train_labels"],
        validation=(parts["validation_images"].permute(0, 3, 1, 2), parts["validation_labels"]),
        augment=("crop", "flip"),
    )


class Speedrun(speedrun_cifar.SpeedrunCifar):
    def data(self):
        return load()
