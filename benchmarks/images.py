"""The images that the benchmarks train on: one file that the harness and its peers read alike."""

from pathlib import Path

import numpy as np

from harness.data import Data, image_folder, shapes
from harness.data.part import Arrays


def write_images(path: Path, folder: Path | None = None, *, train: int, validation: int) -> None:
    """Writes images (N, 32, 32, 3) uint8 and their labels (N,) int64: generated ones, or real ones from a folder."""
    data = shapes(train=train, validation=validation, test=1) if folder is None else image_folder(folder)
    chance = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", train), ("validation", validation)):
        held = _arrays(data, part)
        chosen = chance.permutation(len(held))[:count]
        arrays[f"{part}_images"] = held.inputs.permute(0, 2, 3, 1).numpy()[chosen]
        arrays[f"{part}_labels"] = held.targets.numpy()[chosen]
    np.savez(path, **arrays)  # type: ignore[arg-type]


def _arrays(data: Data, part: str) -> Arrays:
    held = data.train if part == "train" else data.validation
    assert isinstance(held, Arrays)
    return held
