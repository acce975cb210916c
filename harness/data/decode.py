"""Decodes image files into one array. For a large folder it runs as a program, once for each core.

It does not import the rest of the package: importing torch in each process would cost more than it saves. Threads would
not help, since with small images they wait for each other.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

FEW = 1_000  # up to so many files are decoded without starting processes

DEEP = "16 bits or more a value"  # why an image does not become bytes

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


def read_image(path: str | Path, *, size: int, channels: int, deep: bool = False) -> Pixels:
    """One image file as (size, size, channels) uint8: the shorter side resized, then the middle cut out.

    Grey images of more than 8 bits a value, or of floats, are read with `deep`, as float32 that keep their values.
    Raises OSError, or another exception of Pillow, if the file is not a readable image of that kind.
    """
    mode = "RGB" if channels == 3 else "L"
    with Image.open(path) as file:
        if (file.mode == "F" or file.mode.startswith("I")) is not deep:
            raise ValueError("8 bits a value" if deep else DEEP)
        if deep:
            return _read_deep(file, size, channels)
        file.draft(mode, (2 * size, 2 * size))  # a large JPEG is read at a fraction of its resolution
        upright = ImageOps.exif_transpose(file)
        # Pillow warns when it drops the transparency of a palette.
        image = (upright.convert("RGBA") if "transparency" in upright.info else upright).convert(mode)
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), method=Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(size, size, channels)


def _read_deep(file: Image.Image, size: int, channels: int) -> npt.NDArray[np.float32]:
    # Not by Pillow's own conversion, which cuts 16 bits to 8.
    values = Image.fromarray(np.asarray(ImageOps.exif_transpose(file)).astype(np.float32))
    if values.size != (size, size):
        values = ImageOps.fit(values, (size, size), method=Image.Resampling.BILINEAR)
    found = np.asarray(values, dtype=np.float32)
    if not np.isfinite(found).all():
        raise ValueError("values that are not finite")
    return np.repeat(found.reshape(size, size, 1), channels, axis=2)


def fill(output: Pixels, rows: Iterable[int], paths: Iterable[str]) -> list[tuple[str, str]]:
    """Decodes `paths` into `rows` of (N, size, size, channels). Returns path and reason of each failure."""
    failures = []
    for row, path in zip(rows, paths, strict=True):
        try:
            deep = output.dtype == np.float32
            output[row] = read_image(path, size=output.shape[1], channels=output.shape[3], deep=deep)
        except ValueError as error:
            failures.append((path, str(error) if len(str(error)) < 40 else type(error).__name__))
        # Pillow's decoders raise almost any exception for a broken file.
        except Exception as error:
            reason = "empty" if os.path.getsize(path) == 0 else type(error).__name__
            failures.append((path, reason))
    return failures


def decode_files(
    paths: list[str], output: Path, *, size: int, channels: int, deep: bool = False
) -> list[tuple[str, str]]:
    """Decodes files into the .npy file `output` (N, size, size, channels), on all cores for many files."""
    shape = (len(paths), size, size, channels)
    array = np.lib.format.open_memmap(output, mode="w+", dtype=np.float32 if deep else np.uint8, shape=shape)
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    if len(paths) <= FEW or cores == 1:
        failures = fill(array, range(len(paths)), paths)
        array.flush()
        return failures
    command = [sys.executable, "-P", __file__]  # -P: do not import the modules beside this file as top-level ones
    children = []
    for core in range(cores):
        task = {"output": str(output), "first": core, "step": cores, "paths": paths[core::cores]}
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert child.stdin is not None
        child.stdin.write(json.dumps(task))
        child.stdin.close()
        child.stdin = None
        children.append(child)
    failures = []
    for child in children:
        answer, _ = child.communicate()
        if child.returncode != 0:
            raise RuntimeError(f"decoding images ended with exit code {child.returncode}")
        failures += [(path, reason) for path, reason in json.loads(answer)]
    return sorted(failures)


def main() -> None:
    """Decodes some of the files: the task is JSON on stdin, the failures are JSON on stdout."""
    task: dict[str, Any] = json.load(sys.stdin)
    paths = task["paths"]
    array = np.load(task["output"], mmap_mode="r+")
    rows = range(task["first"], task["first"] + task["step"] * len(paths), task["step"])
    failures = fill(array, rows, paths)
    array.flush()
    json.dump(failures, sys.stdout)


if __name__ == "__main__":
    main()
