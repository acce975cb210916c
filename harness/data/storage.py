"""The folder for downloads and decoded images, shared by processes."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def data_dir() -> Path:
    """`HARNESS_DATA_DIR`, or `data/` in the working folder."""
    return Path(os.environ.get("HARNESS_DATA_DIR") or "data")


@contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Lets one process at a time into a `with` block. The lock ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f".{name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def publish(temporary: Path, target: Path) -> None:
    """Gives a finished file its name: readers find the complete file or none."""
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
