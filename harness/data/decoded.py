"""The decoded images of a folder, kept in a file as long as nothing changes."""

import hashlib
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from harness.data.decode import DEEP, FEW, decode_files
from harness.data.files import Listing, shown, unreadable
from harness.data.normalise import as_mean_and_std
from harness.data.split import Indices
from harness.data.storage import data_dir, locked, publish
from harness.errors import FAILED, HarnessError

Sums = npt.NDArray[np.float64]
CHUNK = 16  # images whose sums are taken together: what fits into a cache of a core


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What is known of a file of images (M, H, W, C), so that it need not be read through again."""

    sums: Sums  # (M, C) of each image
    squares: Sums  # (M, C)
    digest: str  # of the content

    def of(self, rows: Indices, pixels: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (C,) of the images `rows`, of so many pixels each."""
        mean = self.sums[rows].sum(0) / (pixels * len(rows))
        variance = self.squares[rows].sum(0) / (pixels * len(rows)) - mean**2
        return as_mean_and_std(mean, variance)


def decoded(listing: Listing, *, size: int, channels: int) -> Path:
    """The .npy file of the pixels (N, size, size, channels), made where it is not there: uint8, or float32."""
    cache, folder = data_dir() / "cache", listing.folder
    place = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:8]
    prefix = f"{folder.resolve().name}-{place}-{size}x{size}x{channels}"
    target = cache / f"{prefix}-{listing.fingerprint}.npy"
    with locked(cache, prefix):
        if not target.exists():
            _decode_into(target, listing, size=size, channels=channels)
            for outdated in set(cache.glob(f"{prefix}-*.np[yz]")) - {target}:
                outdated.unlink()
    return target


def _decode_into(target: Path, listing: Listing, *, size: int, channels: int) -> None:
    files, folder = listing.files, shown(listing.folder)
    start = time.perf_counter()
    temporary = target.parent / f".{target.name}.tmp"
    if len(files) > 2 * FEW:
        print(f"Decoding {len(files):,} images of {folder} ...", file=sys.stderr, flush=True)
    try:
        failures: list[tuple[str, str]] = []
        for deep in (False, True):
            _check_room(target.parent, len(files) * size * size * channels * (4 if deep else 1))
            failures = decode_files(files, temporary, size=size, channels=channels, deep=deep)
            if len(failures) < len(files) or any(reason != DEEP for _, reason in failures):
                break
        deep_ones = [path for path, reason in failures if reason == DEEP]
        if deep_ones and len(deep_ones) == len(failures):
            raise HarnessError(
                f"image_folder: {len(deep_ones):,} of {len(files):,} images in {folder} have {DEEP}, such as "
                f"{shown(deep_ones[0])}, and the others 8. Bring them all to one kind.",
                exit_code=FAILED,
            )
        if failures:
            raise unreadable(failures)
        publish(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    if len(files) > 2 * FEW:
        seconds = time.perf_counter() - start
        print(f"Decoded in {seconds:.1f} s, kept in {shown(target)}.", file=sys.stderr, flush=True)


def _check_room(folder: Path, needed: int) -> None:
    """Writing to a mapped file on a full disk would end the process without a word."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise HarnessError(
            f"image_folder: {shown(folder)} has {free / 1e6:,.0f} MB left, and {needed / 1e6:,.0f} MB are needed.",
            exit_code=FAILED,
        )


def statistics_of(file: Path) -> Statistics:
    """The statistics of a file of images, read through once and then kept beside it."""
    kept = file.with_suffix(".npz")
    with locked(file.parent, file.stem):
        if not kept.exists():
            temporary = kept.with_name(f".{kept.stem}.tmp.npz")
            sums, squares, digest = _read_through(np.load(file, mmap_mode="r"))
            np.savez(temporary, sums=sums, squares=squares, digest=np.frombuffer(digest, dtype=np.uint8))
            publish(temporary, kept)
        with np.load(kept) as found:
            return Statistics(sums=found["sums"], squares=found["squares"], digest=found["digest"].tobytes().hex())


def _read_through(images: npt.NDArray[Any]) -> tuple[Sums, Sums, bytes]:
    count, height, width, channels = images.shape
    sums, squares = np.zeros((2, count, channels))
    content = hashlib.sha256(f"{images.dtype} {images.shape}".encode())
    for start in range(0, count, CHUNK):
        part = np.ascontiguousarray(images[start : start + CHUNK])
        content.update(part.data)
        # Up to 256 rows of bytes, squared, have a sum that float32 holds exactly.
        kind = np.float32 if part.dtype == np.uint8 and height <= 256 else np.float64
        rows = part.astype(kind).reshape(len(part), height, width * channels)
        for total in (sums, squares):
            columns = rows.sum(1).astype(np.float64).reshape(len(part), width, channels)
            total[start : start + CHUNK] = columns.sum(1)
            np.square(rows, out=rows)
    return sums, squares, content.digest()
