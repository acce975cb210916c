"""For a read-only store: MLflow gets a copy of its database, in a temporary folder."""

import os
import shutil
import sqlite3
import tempfile
import weakref
from contextlib import closing, suppress
from pathlib import Path

from harness.errors import FAILED, HarnessError
from harness.tracking.making import DATABASE, relocate

BESIDE = ("", "-journal", "-wal")  # files that a killed process leaves belong to its database


def is_writable(folder: Path) -> bool:
    """Whether this user may write into a store, also by the mount."""
    files = (folder / name for name in (DATABASE, "store.lock"))
    return os.access(folder, os.W_OK | os.X_OK) and all(os.access(file, os.W_OK) for file in files if file.exists())


class DatabaseCopy:
    """A copy of a store's database, deleted when it is not used any more, or when this process ends."""

    def __init__(self, folder: Path) -> None:
        folder_of_copy = tempfile.mkdtemp(prefix="harness-")
        weakref.finalize(self, shutil.rmtree, folder_of_copy, ignore_errors=True)
        self.path = Path(folder_of_copy) / DATABASE
        _copy(folder / DATABASE, self.path)
        relocate(self.path, folder)


def _copy(source: Path, target: Path) -> None:
    try:
        uri = f"{source.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=20)) as read, closing(sqlite3.connect(target)) as written:
            read.backup(written)
        return
    except sqlite3.OperationalError:  # half written by a killed process: SQLite undoes that in a copy
        target.unlink(missing_ok=True)
    except sqlite3.DatabaseError as error:
        raise HarnessError(f"{source} cannot be read: {error}", exit_code=FAILED) from None
    for suffix in BESIDE:
        with suppress(FileNotFoundError):
            shutil.copyfile(f"{source}{suffix}", f"{target}{suffix}")
