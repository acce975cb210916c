"""A lock for one driver for each spec and store. It names its holder; the kernel frees it when the holder dies."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import HarnessError


@contextmanager
def holding(path: Path, what: str) -> Iterator[None]:
    """Holds the lock for a `with` block. Raises `HarnessError` with the holder if another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _held(path, what) from None
        file.seek(0)
        file.truncate()
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": since}, file)
        file.flush()
        yield


def check_free(path: Path, what: str) -> None:
    """Raises `HarnessError` with the holder if the lock is held; creates no file."""
    if is_held(path):
        raise _held(path, what)


def is_held(path: Path) -> bool:
    """Whether a live process holds the lock."""
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except PermissionError:  # another user's file, or a mount without locks: an error comes when something is written
        return False
    except BlockingIOError:
        return True
    return False


def _held(path: Path, what: str) -> HarnessError:
    try:
        holder = json.loads(path.read_text())
        who = f"by process {holder['pid']} on {holder['host']}, since {holder['since']}"
    except (ValueError, KeyError, OSError):
        who = "by another process"
    return HarnessError(
        f"{what} is being run {who}. Wait for it or stop it: two processes would train the same trials."
    )
