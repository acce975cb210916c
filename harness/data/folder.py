"""`image_folder`: the user's own images, one folder a class, decoded once into an array."""

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.data.assemble import build_data
from harness.data.decode import FEW, Pixels, decode_files
from harness.data.generated import demo_shapes
from harness.data.memory import select, split_note
from harness.data.part import Arrays, Data
from harness.data.split import part_size, split
from harness.data.storage import data_dir, locked, publish
from harness.demo import is_demo
from harness.errors import FAILED, HarnessError

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm"),
)
VALIDATION_FOLDERS = ("val", "validation", "valid")
DECODER = "1"  # increase it with every change of the pixels that `decode` gives


def image_folder(
    path: str | Path,
    *,
    size: int = 32,
    validation: int | float = 0.1,
    augment: Sequence[str] | str = (),
    split_seed: int = 0,
    channels: int = 3,
) -> Data:
    """Images (N, channels, size, size) uint8 from a folder that holds one folder a class.

    The class folders are in `path` itself, or in `path/train`. In the second case there may also be `path/val` (or
    `validation`, or `valid`) and `path/test`. Without a validation folder, `validation` (a count or a fraction)
    is split off the training images, stratified and seeded; without a test folder there is no test part.
    Images of another size are resized by their shorter side and cropped to the middle. They are decoded once,
    on all cores, into an array under `HARNESS_DATA_DIR` (else `data/`), and again if the folder has changed.

    Raises `HarnessError` for a missing folder, a class without images, and files that cannot be decoded,
    naming them. Under `--demo`: `shapes`, of the same size and number of classes.
    """
    root = Path(path)
    if channels not in (1, 3) or isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise HarnessError(f"image_folder: channels must be 1 or 3 and size at least 1, not {channels!r}, {size!r}.")
    if is_demo():
        classes = len(_class_names(_train_folder(root))) if root.is_dir() else 10
        return demo_shapes(size=size, channels=channels, classes=classes or 10, augment=augment)
    if not root.is_dir():
        raise HarnessError(f"image_folder: there is no folder {root}.")
    train_folder = _train_folder(root)
    names = _class_names(train_folder)
    if len(names) < 2:
        raise HarnessError(
            f"image_folder: {train_folder} holds {len(names)} class folders; at least 2 are needed, one a class."
        )

    def read(folder: Path) -> Arrays:
        files, targets = _find_images(folder, names, complete=folder == train_folder)
        pixels = _decoded(folder, files, size=size, channels=channels)
        return Arrays(
            inputs=torch.from_numpy(pixels).permute(0, 3, 1, 2), targets=torch.tensor(targets, dtype=torch.int64)
        )

    whole = read(train_folder)
    given = [root / name for name in VALIDATION_FOLDERS if (root / name).is_dir()]
    if train_folder != root and given:
        cut: tuple[int, ...] = ()
        train, held_out = whole, read(given[0])
    else:
        cut = (part_size(validation, len(whole), "validation"),)
        first, rest = split(whole.targets, len(whole), cut, seed=split_seed)
        train, held_out = select(whole, rest), select(whole, first)
    test_folder = root / "test"
    return build_data(
        name=root.resolve().name,
        train=train,
        validation=held_out,
        load_test=(lambda: read(test_folder)) if train_folder != root and test_folder.is_dir() else None,
        classes=names,
        augment=augment,
        normalize=True,
        description=split_note(cut, whole.targets, split_seed) | {"path": str(root)},
    )


def _train_folder(root: Path) -> Path:
    """`root/train` where that holds folders (and is no class of that name), else `root`."""
    return root / "train" if (root / "train").is_dir() and _class_names(root / "train") else root


def _class_names(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."))


def _find_images(folder: Path, names: Sequence[str], *, complete: bool) -> tuple[list[str], list[int]]:
    """All image files below the class folders, sorted, and the class of each."""
    strangers = sorted(set(_class_names(folder)) - set(names))
    if strangers:
        raise HarnessError(f"image_folder: {folder / strangers[0]} is a class that the training images lack.")
    files: list[str] = []
    targets: list[int] = []
    for target, name in enumerate(names):
        found = sorted(
            os.path.join(place, file)
            for place, _, inside in os.walk(folder / name)
            for file in inside
            if file.lower().endswith(IMAGE_SUFFIXES) and file[0] != "."
        )
        if complete and not found:
            raise HarnessError(f"image_folder: there are no images in {folder / name}.")
        files += found
        targets += [target] * len(found)
    if not files:
        raise HarnessError(f"image_folder: there are no images in {folder}.")
    return files, targets


def _decoded(folder: Path, files: list[str], *, size: int, channels: int) -> Pixels:
    """The pixels (N, size, size, channels) of the files, from the cache while nothing has changed."""
    cache = data_dir() / "cache"
    place = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:8]
    prefix = f"{folder.resolve().name}-{place}-{size}x{size}x{channels}"
    target = cache / f"{prefix}-{_fingerprint(folder, files)}.npy"
    with locked(cache, prefix):
        if not target.exists():
            _decode_into(target, folder, files, size=size, channels=channels)
            for outdated in set(cache.glob(f"{prefix}-*.npy")) - {target}:
                outdated.unlink()
        pixels: np.ndarray[Any, Any] = np.load(target)
    return pixels


def _fingerprint(folder: Path, files: Sequence[str]) -> str:
    found = hashlib.sha256(DECODER.encode())
    for file in files:
        status = os.stat(file)
        found.update(os.fsencode(os.path.relpath(file, folder)))
        found.update(f" {status.st_size} {status.st_mtime_ns}\n".encode())
    return found.hexdigest()[:16]


def _decode_into(target: Path, folder: Path, files: list[str], *, size: int, channels: int) -> None:
    needed = len(files) * size * size * channels
    free = shutil.disk_usage(target.parent).free
    if free < needed:  # writing to a mapped file on a full disk kills the process without a message
        raise HarnessError(
            f"image_folder: {target.parent} has {free / 1e6:,.0f} MB left, and {needed / 1e6:,.0f} MB are needed.",
            exit_code=FAILED,
        )
    if len(files) > 2 * FEW:
        print(f"Decoding {len(files):,} images of {folder} ...", file=sys.stderr, flush=True)
    start = time.perf_counter()
    temporary = target.parent / f".{target.name}.tmp"
    try:
        failures = decode_files(files, temporary, size=size, channels=channels)
        if failures:
            shown = ", ".join(f"{path} ({reason})" for path, reason in failures[:5])
            more = f" and {len(failures) - 5:,} more" if len(failures) > 5 else ""
            count = "1 image" if len(failures) == 1 else f"{len(failures):,} images"
            raise HarnessError(
                f"image_folder: {count} cannot be decoded: {shown}{more}. Remove or repair them.", exit_code=FAILED
            )
        publish(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    if len(files) > 2 * FEW:
        seconds = time.perf_counter() - start
        print(f"Decoded in {seconds:.1f} s, kept in {target}.", file=sys.stderr, flush=True)
