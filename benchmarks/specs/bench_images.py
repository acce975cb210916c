"""The images of BENCH_IMAGES, a file that `benchmarks/images.py` wrote, as data."""

import os

import numpy as np
import torch

from harness.data import tensors


def load_images():
    """The training and the validation images, with crop and flip."""
    with np.load(os.environ["BENCH_IMAGES"]) as arrays:
        parts = {name: torch.from_numpy(arrays[name]) for name in arrays}
    return tensors(
        parts["train_images"].permute(0, 3, 1, 2),
        parts["train_labels"],
        validation=(parts["validation_images"].permute(0, 3, 1, 2), parts["validation_labels"]),
        augment=("crop", "flip"),
    )
