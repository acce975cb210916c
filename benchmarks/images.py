"""The images for the benchmarks: one file, read by the harness and by the other programs."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

BATCH_SIZE = 64
PARTS = ("train", "validation")


def write_images(path: Path, folder: Path | None = None, *, train: int, validation: int) -> None:
    """Writes images (N, 32, 32, 3) uint8 and their labels (N,) int64: generated ones, or real ones from a folder."""
    from harness.data import image_folder, shapes
    from harness.data.part import Arrays

    data = shapes(train=train, validation=validation, test=1) if folder is None else image_folder(folder)
    chance = np.random.default_rng(0)
    arrays = {}
    for part, held, count in zip(PARTS, (data.train, data.validation), (train, validation), strict=True):
        assert isinstance(held, Arrays)
        chosen = chance.permutation(len(held))[:count]
        arrays[f"{part}_images"] = held.inputs.permute(0, 2, 3, 1).numpy()[chosen]
        arrays[f"{part}_labels"] = held.targets.numpy()[chosen]
    np.savez(path, **arrays)  # type: ignore[arg-type]


def read_images(path: str | Path) -> dict[str, torch.Tensor]:
    """The arrays of a file: `train_images`, `train_labels`, `validation_images`, `validation_labels`."""
    with np.load(path) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


class Pictures(Dataset[Any]):
    """Images as torchvision's own data sets give them: opened as PIL images and transformed, one by one."""

    def __init__(self, path: str | Path, part: str) -> None:
        from torchvision import transforms

        with np.load(path) as arrays:
            self.images, self.labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        augment = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()] if part == "train" else []
        normalize = transforms.Normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
        self.transform = transforms.Compose([transforms.ToPILImage(), *augment, transforms.ToTensor(), normalize])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(self.images[index]), int(self.labels[index])


def build_loaders(
    path: str | Path, *, workers: int, batch_size: int = BATCH_SIZE, pinned: bool = False
) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Loaders of the training and the validation images, with workers that stay."""
    common: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0, "pin_memory": pinned}
    return (
        DataLoader(Pictures(path, "train"), batch_size=batch_size, shuffle=True, **common),
        DataLoader(Pictures(path, "validation"), batch_size=256, **common),
    )
