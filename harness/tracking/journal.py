"""Where Optuna keeps studies: a journal that survives a kill at any moment, or a database."""

import fcntl
import os
import warnings
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock  # public, but not declared so to type checkers

from harness.errors import FAILED, HarnessError, without_login


class KernelLock(BaseJournalFileLock):
    """A lock of the kernel's: it is gone with the process that held it, so that no one waits for the dead."""

    def __init__(self, journal: Path) -> None:
        self._journal, self._path = journal, journal.with_suffix(".lock")
        self._handle: int | None = None

    def acquire(self) -> bool:
        """Waits for the lock. A last line that a kill or a full disk has torn is cut off before anything follows it."""
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
    """Optuna's journal; a last line that a kill has torn is cut off first, or every later load would fail."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = KernelLock(path)
    lock.acquire()
    lock.release()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def open_database(url: str) -> BaseStorage:
    """Optuna's storage in a database, such as `postgresql+psycopg://user@host/name`, in place of the journal."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True})  # connections that idle are cut
    except Exception as error:  # of SQLAlchemy, of a driver that is not installed, or of the address
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise HarnessError(without_login(f"--study-storage {url}: {reason.strip()}"), exit_code=FAILED) from None


def open_study(storage: BaseStorage, name: str) -> optuna.Study | None:
    """The study of this name, if there is one."""
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        return None


def count_archived(storage: BaseStorage, name: str) -> int:
    """How many earlier studies of a spec there are."""
    return sum(other.rpartition("~")[0] == name for other in optuna.get_all_study_names(storage))


def archive_study(storage: BaseStorage, name: str) -> str:
    """Gives a study another name, so that a new one can take its place; the new name."""
    taken = set(optuna.get_all_study_names(storage))
    archived = next(f"{name}~{i}" for i in range(1, len(taken) + 2) if f"{name}~{i}" not in taken)
    optuna.copy_study(from_study_name=name, from_storage=storage, to_study_name=archived, to_storage=storage)
    optuna.delete_study(study_name=name, storage=storage)
    return archived


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


def find_importances(study: optuna.Study) -> dict[str, float]:
    """The share of each hyperparameter in what came out, by Optuna's default evaluator; they sum to 1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.importance.get_param_importances(study)
