"""`image_folder`: the user's own images, one folder a class, decoded once into an array."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.data.assemble import build_data, describe
from harness.data.augment import Augment, augment_names, check_augment
from harness.data.decoded import decoded, statistics_of
from harness.data.files import Listing, class_folders, list_images, regular_files, same_files, shown, skipped_note
from harness.data.generated import demo_shapes
from harness.data.mapped import Mapped
from harness.data.memory import select, split_note
from harness.data.part import Arrays, Data
from harness.data.split import Indices, part_size, split
from harness.demo import is_demo
from harness.errors import HarnessError

VALIDATION_FOLDERS = ("val", "validation", "valid")
DECODER = "2"  # increase it with every change of the pixels that `decode` gives


def image_folder(
    path: str | Path,
    *,
    size: int = 32,
    validation: int | float = 0.1,
    augment: Sequence[Augment] | Augment = (),
    split_seed: int = 0,
    channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    memory_gb: float = 2.0,
) -> Data:
    """Images (N, channels, size, size) uint8 from a folder that holds one folder a class.

    The class folders are in `path` itself, or in `path/train`. In the second case there may also be `path/val` (or
    `validation`, or `valid`) and `path/test`. Without a validation folder, `validation` (a count or a fraction)
    is split off the training images, stratified and seeded; without a test folder there is no test part.
    Images of another size are resized by their shorter side and cropped to the middle. They are decoded once,
    on all cores, into an array under `HARNESS_DATA_DIR` (else `data/`), and again if the folder has changed.

    Images that take more than `memory_gb` gigabytes stay in that file, from which each batch is read; what the
    system keeps of it is shared by all processes. On a GPU with memory enough they are brought there all the same.
    `mean` and `std`, a number a channel for values from 0 to 1, replace those of the training images, as for
    weights that were trained with others. Grey images of 16 bits, or of floats, keep their values, as float32.

    Raises `HarnessError` for a missing folder, a class without images, and files that cannot be decoded,
    naming them. Files that are no images by their names are skipped; that, classes without validation images, and
    images that several parts have in common, is said. Under `--demo`: `shapes`, of the same size and number of classes.
    """
    root = Path(path)
    if channels not in (1, 3) or isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise HarnessError(f"image_folder: channels must be 1 or 3 and size at least 1, not {channels!r}, {size!r}.")
    statistics = _statistics(mean, std, channels)
    if is_demo():
        classes = len(class_folders(_train_folder(root))) if root.is_dir() else 10
        return demo_shapes(size=size, channels=channels, classes=classes or 10, augment=augment)
    if not root.is_dir():
        raise HarnessError(f"image_folder: there is no folder {shown(root)}.")
    train_folder = _train_folder(root)
    names = class_folders(train_folder)
    if len(names) < 2:
        where = shown(train_folder)
        raise HarnessError(
            f"image_folder: {where} holds {len(names)} class folders; at least 2 are needed, one a class."
        )
    listing = list_images(train_folder, names, complete=True, version=DECODER)
    given = [root / name for name in VALIDATION_FOLDERS if (root / name).is_dir()] if train_folder != root else []
    other = list_images(given[0], names, complete=False, version=DECODER) if given else None
    total = len(listing.files) + (0 if other is None else len(other.files))
    reader = _Reader(size=size, channels=channels, most=round(memory_gb * 1e9))
    is_mapped = reader.is_too_large(total)
    whole = reader.read(listing, is_mapped)
    cut: tuple[int, ...] = ()
    files = {"training": _files(listing)}
    if other is not None:
        train, held_out = whole, reader.read(other, is_mapped)
        files["validation"] = _files(other)
    else:
        cut = (part_size(validation, len(whole), "validation"),)
        first, rest = split(whole.targets, len(whole), cut, seed=split_seed)
        train, held_out = _select(whole, rest), _select(whole, first)
        files = {"training": _files(listing, rest), "validation": _files(listing, first)}
    test_folder = root / "test"
    has_test = train_folder != root and test_folder.is_dir()

    def load_test() -> Arrays | Mapped:
        tested = list_images(test_folder, names, complete=False, version=DECODER)
        return reader.read(tested, reader.is_too_large(len(tested.files)))

    if has_test:
        files["test"] = regular_files(test_folder)
    labels = tuple(shown(name) for name in names)
    notes = [*skipped_note(listing), *([] if other is None else skipped_note(other))]
    notes += _check_classes(train.targets, held_out.targets, labels, shown(root))
    notes += same_files(files, key=_key_of(files, cut, split_seed))
    assemble = _build_mapped if is_mapped else _build_resident
    data = assemble(
        root, train, held_out, labels, augment, split_note(cut, whole.targets, split_seed) | {"path": shown(root)}
    )
    if statistics is not None:
        content = f"{data.digest} {[values.tolist() for values in statistics]}"
        digest = hashlib.sha256(content.encode()).hexdigest()
        data = replace(data, mean=statistics[0], std=statistics[1], digest=digest)
    return replace(data, load_test=load_test if has_test else None, notes=tuple(notes))


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """How images are decoded, and how many bytes of them are held."""

    size: int
    channels: int
    most: int

    def is_too_large(self, count: int) -> bool:
        return count * self.size * self.size * self.channels > self.most

    def read(self, listing: Listing, is_mapped: bool) -> Arrays | Mapped:
        file = decoded(listing, size=self.size, channels=self.channels)
        targets = torch.tensor(listing.targets, dtype=torch.int64)
        if is_mapped:
            return Mapped(file, np.arange(len(targets)), targets)
        return Arrays(inputs=torch.from_numpy(np.load(file)).permute(0, 3, 1, 2), targets=targets)


def _build_resident(
    root: Path, train: Any, held_out: Any, names: tuple[str, ...], augment: Any, description: dict[str, Any]
) -> Data:
    return build_data(
        name=shown(root.resolve().name),
        train=train,
        validation=held_out,
        load_test=None,
        classes=names,
        augment=augment,
        normalize=True,
        description=description,
    )


def _build_mapped(
    root: Path, train: Any, held_out: Any, names: tuple[str, ...], augment: Any, description: dict[str, Any]
) -> Data:
    """The same over files of images: their sums and digests are known."""
    name = shown(root.resolve().name)
    augments = check_augment(augment, images=True)
    known = {part.file: statistics_of(part.file) for part in (train, held_out)}
    mean, std = known[train.file].of(train.rows, train.pixels.shape[1] * train.pixels.shape[2])
    content = hashlib.sha256(json.dumps([names, augment_names(augments)]).encode())
    for part in (train, held_out):
        content.update(known[part.file].digest.encode() + part.rows.tobytes() + part.targets.numpy().tobytes())
    height, width, channels = train.pixels.shape[1:]
    shape = (channels, height, width)
    return Data(
        name=name,
        train=train,
        validation=held_out,
        classes=names,
        augment=augments,
        mean=mean,
        std=std,
        digest=content.hexdigest(),
        description=describe(name, train, held_out, shape, names, augments) | description,
        input_shape=shape,
    )


def _statistics(
    mean: Sequence[float] | None, std: Sequence[float] | None, channels: int
) -> tuple[Tensor, Tensor] | None:
    """Mean and standard deviation (C,) in units of bytes, from values between 0 and 1."""
    if mean is None and std is None:
        return None
    if mean is None or std is None or len(mean) != channels or len(std) != channels:
        raise HarnessError(f"image_folder: mean and std must both be given, with {channels} numbers, one a channel.")
    if not all(value > 0 for value in std):
        raise HarnessError(f"image_folder: std must be above 0, not {tuple(std)}.")
    return 255 * torch.tensor(tuple(mean)), 255 * torch.tensor(tuple(std))


def _train_folder(root: Path) -> Path:
    """`root/train` where that holds folders (and is no class of that name), else `root`."""
    return root / "train" if (root / "train").is_dir() and class_folders(root / "train") else root


def _select(whole: Arrays | Mapped, chosen: Indices) -> Arrays | Mapped:
    if isinstance(whole, Mapped):
        return Mapped(whole.file, whole.rows[chosen], whole.targets[torch.from_numpy(chosen)])
    return select(whole, chosen)


def _files(listing: Listing, chosen: Indices | None = None) -> tuple[list[str], list[int]]:
    if chosen is None:
        return listing.files, listing.sizes
    return [listing.files[place] for place in chosen], [listing.sizes[place] for place in chosen]


def _key_of(files: Mapping[str, tuple[Sequence[str], Sequence[int]]], *settings: object) -> str:
    found = hashlib.sha256(repr(settings).encode())
    for name, (paths, sizes) in files.items():
        found.update(name.encode())
        for path, size in zip(paths, sizes, strict=True):
            found.update(os.fsencode(path) + f" {size} {os.stat(path).st_mtime_ns}\n".encode())
    return found.hexdigest()[:16]


def _check_classes(train: Tensor, held_out: Tensor, names: Sequence[str], where: str) -> list[str]:
    """Which classes have too few images; raises `HarnessError` where one cannot be trained on."""
    trained, validated = (part.bincount(minlength=len(names)).tolist() for part in (train, held_out))
    lost = [name for name, count in zip(names, trained, strict=True) if not count]
    if lost:
        raise HarnessError(
            f"image_folder: the class {lost[0]} in {where} has too few images: none is left to train on once the "
            "validation part is split off. Add images, or take the class away."
        )
    missing = [name for name, count in zip(names, validated, strict=True) if not count]
    if not missing:
        return []
    what = f"{', '.join(missing[:3])}{f' and {len(missing) - 3} more' if len(missing) > 3 else ''}"
    return [f"the validation part has no image of {what}: too few to validate"]
