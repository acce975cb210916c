"""CIFAR and MNIST, through torchvision, downloaded once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import torch

from harness.data.assemble import build_data
from harness.data.augment import Augment
from harness.data.generated import demo_shapes
from harness.data.memory import select, split_note
from harness.data.part import Arrays, Data
from harness.data.split import part_size, split
from harness.data.storage import data_dir, locked
from harness.demo import is_demo
from harness.errors import FAILED, HarnessError


def cifar10(
    *,
    augment: Sequence[Augment] | Augment = (),
    validation: int | float = 5_000,
    root: str | Path | None = None,
    split_seed: int = 0,
) -> Data:
    """CIFAR-10 (Krizhevsky 2009): colour images (N, 3, 32, 32) uint8 of ten classes.

    The 50,000 training images are split, stratified and seeded, into training and `validation` (a count or
    a fraction); the test part is the published one of 10,000. They are downloaded once, with a verified checksum,
    into `root` (default: the folder `HARNESS_DATA_DIR`, else `data/`). Raises `HarnessError` if that fails.
    Under `--demo`: `shapes`.
    """
    from torchvision.datasets import CIFAR10

    return _load("cifar10", CIFAR10, augment, validation, root, split_seed)


def cifar100(
    *,
    augment: Sequence[Augment] | Augment = (),
    validation: int | float = 5_000,
    root: str | Path | None = None,
    split_seed: int = 0,
) -> Data:
    """CIFAR-100 (Krizhevsky 2009): as `cifar10`, with a hundred classes."""
    from torchvision.datasets import CIFAR100

    return _load("cifar100", CIFAR100, augment, validation, root, split_seed)


def mnist(
    *,
    augment: Sequence[Augment] | Augment = (),
    validation: int | float = 5_000,
    root: str | Path | None = None,
    split_seed: int = 0,
) -> Data:
    """MNIST (LeCun et al. 1998): grey images (N, 1, 28, 28) uint8 of ten handwritten digits.

    60,000 images for training and validation, 10,000 for the test; otherwise as `cifar10`.
    """
    from torchvision.datasets import MNIST

    return _load("mnist", MNIST, augment, validation, root, split_seed)


def fashion_mnist(
    *,
    augment: Sequence[Augment] | Augment = (),
    validation: int | float = 5_000,
    root: str | Path | None = None,
    split_seed: int = 0,
) -> Data:
    """Fashion-MNIST (Xiao et al. 2017): as `mnist`, with ten kinds of clothing."""
    from torchvision.datasets import FashionMNIST

    return _load("fashion_mnist", FashionMNIST, augment, validation, root, split_seed)


def _load(
    name: str,
    source: Any,
    augment: Sequence[Augment] | Augment,
    validation: int | float,
    root: str | Path | None,
    split_seed: int,
) -> Data:
    if is_demo():
        classes = 100 if name == "cifar100" else 10
        grey = "mnist" in name
        return demo_shapes(size=28 if grey else 32, channels=1 if grey else 3, classes=classes, augment=augment)
    folder = data_dir() if root is None else Path(root)
    whole, names = _read(source, folder, train=True)
    sizes = (part_size(validation, len(whole), "validation"),)
    held_out, rest = split(whole.targets, len(whole), sizes, seed=split_seed)
    return build_data(
        name=name,
        train=select(whole, rest),
        validation=select(whole, held_out),
        load_test=lambda: _read(source, folder, train=False)[0],
        classes=names,
        augment=augment,
        normalize=True,
        description=split_note(sizes, whole.targets, split_seed) | {"path": str(folder)},
    )


def _read(source: Any, folder: Path, *, train: bool) -> tuple[Arrays, Sequence[str]]:
    with locked(folder, source.__name__), warnings.catch_warnings():
        # The published pickles of CIFAR spell a dtype in a way that NumPy 2.4 has deprecated.
        warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
        found = _downloaded(source, folder, lambda: source(folder, train=train, download=True))
    pixels = np.asarray(found.data)
    images = torch.from_numpy(np.ascontiguousarray(pixels if pixels.ndim == 4 else pixels[..., None]))
    targets = torch.as_tensor(found.targets, dtype=torch.int64)
    return Arrays(inputs=images.permute(0, 3, 1, 2), targets=targets), found.classes


def _downloaded(source: Any, folder: Path, read: Callable[[], Any]) -> Any:
    """The result of `read`. Raises `HarnessError` if the files cannot be downloaded or are damaged."""
    try:
        return read()
    except (URLError, OSError, RuntimeError, EOFError) as error:
        urls, place = _files(source, folder)
        files = "the file" if len(urls) == 1 else "the files"
        # torchvision lists every mirror it tried, one a line; the last line says what happened.
        reason = str(error).strip().splitlines()[-1].removeprefix("<urlopen error ").rstrip(".>")
        raise HarnessError(
            f"{source.__name__} could not be downloaded ({reason}). Put {files} {', '.join(urls)} into {place}, "
            "or use --demo, which needs no download.",
            exit_code=FAILED,
        ) from error


def _files(source: Any, folder: Path) -> tuple[list[str], Path]:
    """The addresses of the files of a torchvision dataset, and where it looks for them."""
    if hasattr(source, "url"):
        return [source.url], folder
    return [source.mirrors[0] + name for name, _ in source.resources], folder / source.__name__ / "raw"
