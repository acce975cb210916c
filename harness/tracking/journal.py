"""Where Optuna keeps studies: a journal that survives a kill at any moment, or a database."""

import fcntl
import itertools
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock  # public, but not declared so to type checkers

from harness.errors import FAILED, HarnessError, without_login

LONGEST_LINE = 2**20  # bytes at the end of the file in which the last line is looked for


class KernelLock(BaseJournalFileLock):
    """A lock of the kernel: it ends with the process that holds it, so nobody waits for a process that was killed."""

    def __init__(self, journal: Path) -> None:
        self._journal, self._path = journal, journal.with_suffix(".lock")
        self._handle: int | None = None

    def acquire(self) -> bool:
        """Waits for the lock. Removes an incomplete last line, which a killed process or a full disk left."""
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        if self._journal.exists():
            _cut_torn_line(self._journal)
        return True

    def release(self) -> None:
        assert self._handle is not None
        os.close(self._handle)
        self._handle = None


def open_journal(path: Path) -> JournalStorage:
    """Optuna's journal. Removes an incomplete last line first: with it, every later load would fail."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = KernelLock(path)
    lock.acquire()
    lock.release()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            _check_last_line(path)
            return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
        except OSError:
            raise
        except Exception:  # what Optuna raises for an odd entry may be of any kind
            raise _damaged(path) from None


def read_journal(path: Path) -> JournalStorage:
    """Optuna's journal as it is now, only for reading: its folder may be read-only."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            return JournalStorage(_Lines(path.read_bytes()))
        except OSError:
            raise
        except Exception:  # what Optuna raises for an odd entry may be of any kind
            raise _damaged(path) from None


class _Lines(BaseJournalBackend):
    """A journal in memory, without an incomplete last line."""

    def __init__(self, content: bytes) -> None:
        self._entries = [json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        yield from self._entries[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        raise AssertionError("this journal is for reading")


def _damaged(path: Path) -> HarnessError:
    """An error that says where a journal is damaged."""
    where, why = "", "it contains an entry that Optuna does not know"
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            json.loads(line)
        except ValueError:
            where, why = f":{number}", "this line is damaged"
            break
    return HarnessError(
        f"{path}{where}: {why}. Restore a backup of the file; or move it away and start a new study with --fresh. "
        "The runs in MLflow are kept.",
        exit_code=FAILED,
    )


def open_database(url: str) -> BaseStorage:
    """Optuna's storage in a database, such as `postgresql+psycopg://user@host/name`, in place of the journal."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True})  # servers close idle connections
    except Exception as error:  # from SQLAlchemy, for a driver that is not installed, or for a wrong address
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise HarnessError(without_login(f"--study-storage {url}: {reason.strip()}"), exit_code=FAILED) from None


def open_study(storage: BaseStorage, name: str) -> optuna.Study | None:
    """The study of this name, or None."""
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        return None


def archived_studies(storage: BaseStorage, name: str) -> list[str]:
    """The names of the earlier studies of a spec, the newest one last."""
    names = [other for other in optuna.get_all_study_names(storage) if other.rpartition("~")[0] == name]
    return sorted(names, key=lambda other: int(other.rpartition("~")[2]))


def archive_study(storage: BaseStorage, name: str) -> str:
    """Gives a study another name, so that a new one can take its place; the new name."""
    taken = set(optuna.get_all_study_names(storage))
    number = optuna.load_study(study_name=name, storage=storage).user_attrs.get("number", 1)
    archived = next(f"{name}~{i}" for i in itertools.count(number) if f"{name}~{i}" not in taken)
    optuna.copy_study(from_study_name=name, from_storage=storage, to_study_name=archived, to_storage=storage)
    optuna.delete_study(study_name=name, storage=storage)
    return archived


def _check_last_line(path: Path) -> None:
    """Raises `ValueError` if the last line is not JSON: Optuna ignores it until another line follows."""
    if path.exists() and (lines := path.read_bytes()[-LONGEST_LINE:].splitlines()):
        json.loads(lines[-1])


def _cut_torn_line(path: Path) -> None:
    with open(path, "rb+") as file:
        end = file.seek(0, os.SEEK_END)
        position = end
        while position > 0:
            start = max(0, position - 4096)
            file.seek(start)
            newline = file.read(position - start).rfind(b"\n")
            if newline >= 0:
                position = start + newline + 1
                break
            position = start
        if position < end:
            file.truncate(position)
            os.fsync(file.fileno())
