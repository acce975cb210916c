"""The images of all steps: real ones from the given folder, else generated ones, in one file that is written once."""

import os
from pathlib import Path

import numpy as np
from images import write_images

from gpu.running import Given

TRAIN, VALIDATION = 45_000, 5_000


def images_of(given: Given) -> Path:
    """The file of images, as `write_images` makes it."""
    train, validation = (256, 64) if given.quick else (TRAIN, VALIDATION)
    path = given.work / f"{'generated' if given.images is None else 'real'}-{train}.npz"
    if not path.exists():
        unfinished = path.with_name(f"{os.getpid()}-{path.name}")
        write_images(unfinished, given.images, train=train, validation=validation)
        unfinished.rename(path)
    return path


def count_of(images: Path) -> int:
    """How many training images a file has."""
    with np.load(images) as arrays:
        return len(arrays["train_labels"])
