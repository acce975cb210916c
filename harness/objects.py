"""Objects in an object store that fsspec knows, such as s3://bucket/prefix. Each is written completely or not at all.

A store can be unreachable for a while. Then every call raises `Away` at once, and the store is tried again after
`AWAY_SECONDS`. Writes wait in order, and are done when the store answers again.
"""

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from harness.errors import FAILED, HarnessError

AWAY_SECONDS = 10.0
# The defaults would let training wait for minutes when the network loses packets.
S3_CONFIG = {"connect_timeout": 5, "read_timeout": 20, "retries": {"max_attempts": 2, "mode": "standard"}}
EXTRAS = {
    **dict.fromkeys(("s3", "s3a"), "experiment-harness[s3]"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("az", "abfs"), "adlfs"),
}
NO_KEYS = ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound")


class Away(Exception):
    """The store cannot be reached, or refuses. The message says why."""


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """An object in a listing; its size in bytes."""

    name: str
    size: int
    modified: Any  # larger means later; the type depends on the store


class Objects:
    """The objects at one address, by name. The threads of a process share one instance."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._files, self._root = _connect(address)
        self._waiting: deque[Callable[[], object]] = deque()
        self._writing = threading.Lock()
        self._away: str | None = None
        self._asks_again = 0.0
        self._news: str | None = None

    def read(self, name: str) -> bytes | None:
        """The content of an object, or None if it does not exist."""
        try:
            with self._reaching():
                return bytes(self._files.cat_file(self._path(name)))
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Writes an object; replaces one with this name."""
        with self._reaching(is_writing=True):
            self._files.pipe_file(self._path(name), content)

    def create(self, name: str, content: bytes) -> bool:
        """Writes an object unless one has this name; returns False then. If several try at once, one succeeds."""
        try:
            with self._reaching(is_writing=True):
                self._files.pipe_file(self._path(name), content, mode="create")
        except FileExistsError:
            return False
        return True

    def find(self, folder: str, beginning: str = "") -> list[StoredObject]:
        """All objects in and below a folder whose names start with `beginning`, the oldest first."""
        with self._reaching():
            path = self._path(folder)
            listed = self._files.find(path, prefix=beginning, detail=True)
        cut = len(self._root.rstrip("/")) + 1
        found = [
            StoredObject(name=name[cut:], size=int(entry["size"]), modified=_modified(entry))
            for name, entry in listed.items()
            if entry["type"] == "file" and name.startswith(f"{path.rstrip('/')}/{beginning}")
        ]
        return sorted(found, key=lambda one: one.modified)

    def move(self, name: str, to: str) -> None:
        """Renames an object; does nothing if it does not exist."""
        try:
            with self._reaching():
                self._files.cp_file(self._path(name), self._path(to))
        except FileNotFoundError:
            return
        self.remove(name)

    def remove(self, name: str) -> None:
        """Removes an object, if it exists."""
        try:
            with self._reaching():
                self._files.rm_file(self._path(name))
        except FileNotFoundError:
            pass

    def in_turn(self, job: Callable[[], object] | None = None) -> None:
        """Adds a job of writing, and does all waiting jobs in order, unless the store is unreachable."""
        if job is not None:
            self._waiting.append(job)
        if not self._writing.acquire(blocking=False):  # another thread does them now
            return
        try:
            while self._waiting:
                self._waiting[0]()
                self._waiting.popleft()
        except Away:
            pass
        finally:
            self._writing.release()

    def news(self) -> str | None:
        """A message that the store became unreachable, or answers again; each is returned once."""
        told, self._news = self._news, None
        return told

    def check(self) -> str | None:
        """Writes, reads, lists and removes an object, as training will; a sentence if the store lacks something.

        Raises `HarnessError` for an error that the user must fix, and `Away` for one that may pass.
        """
        name = f"check-{uuid.uuid4().hex}"
        self._asks_again = 0.0
        try:
            self.read(name)
            self.write(name, b"harness")
            is_exclusive = not self.create(name, b"again")
            listed = self.find("", name)
            self.remove(name)
        except Away as away:
            cause = away.__cause__
            if cause is None or (advice := _advise(self.address, cause)) is None:
                raise
            raise HarnessError(f"--paths {self.address}: {advice}", exit_code=FAILED) from None
        if not listed:
            raise HarnessError(
                f"--paths {self.address}: it does not list an object that was written to it.", exit_code=FAILED
            )
        if is_exclusive:
            return None
        return f"{self.address} has no conditional writes: two nodes may train the same epoch, with equal results"

    @contextmanager
    def _reaching(self, *, is_writing: bool = False) -> Iterator[None]:
        """Any error inside becomes `Away`, except that a name does not exist or exists already."""
        if self._away is not None and time.monotonic() < self._asks_again:
            raise Away(self._away)
        try:
            yield
        except (FileNotFoundError, FileExistsError) as error:
            if is_writing and isinstance(error, FileNotFoundError):
                raise self._lost(error) from error
            self._reached()
            raise
        except Exception as error:
            raise self._lost(error) from error
        self._reached()

    def _lost(self, error: Exception) -> Away:
        why = _first_line(error)
        if self._away is None:
            self._news = f"{self.address} cannot be reached ({why}); training goes on, and writes wait"
        self._away, self._asks_again = why, time.monotonic() + AWAY_SECONDS
        return Away(why)

    def _reached(self) -> None:
        if self._away is not None:
            self._away, self._news = None, None if self._news else f"{self.address} answers again"

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}".rstrip("/")


@cache
def open_objects(address: str) -> Objects:
    """The objects at an address; one instance for each process. Raises `HarnessError` if fsspec cannot open it."""
    return Objects(address)


def check_address(address: str) -> str | None:
    """As `Objects.check`; here a store that cannot be reached is an error."""
    try:
        return open_objects(address).check()
    except Away as away:
        server = " and AWS_ENDPOINT_URL right" if address.startswith("s3") else ""
        message = f"--paths {address}: nothing can be kept there ({away}). Is the store up{server}?"
        raise HarnessError(message, exit_code=FAILED) from None


def _connect(address: str) -> tuple[Any, str]:
    import fsspec

    protocol = address.partition("://")[0].rpartition("::")[2]
    options: dict[str, Any] = {"use_listings_cache": False}  # other machines write there too
    if protocol in ("s3", "s3a"):
        set_by_user = fsspec.config.conf.get(protocol, {}).get("config_kwargs", {})
        options["config_kwargs"] = S3_CONFIG | set_by_user
    try:
        files, root = fsspec.core.url_to_fs(address, **options)
    except ImportError:
        wanted = EXTRAS.get(protocol)
        how = f": pip install '{wanted}'" if wanted else f", what fsspec needs for {protocol}://"
        raise HarnessError(f"--paths {address} needs a package that is not installed{how}") from None
    except ValueError as error:
        message = f"--paths {address}: {_first_line(error)}. Write it as s3://BUCKET/NAME, or as a folder."
        raise HarnessError(message) from None
    if protocol in ("s3", "s3a"):
        files.retries = 1  # in addition to those in its configuration
    return files, str(root)


def _advise(address: str, error: BaseException) -> str | None:
    """What the user can do about an error; None if waiting may help."""
    place = "/".join(address.split("/")[:3])
    if isinstance(error, FileNotFoundError):
        return f"there is no bucket {place}. Make it first, such as with: aws s3 mb {place}"
    if isinstance(error, PermissionError):
        return (
            f"access is denied ({_first_line(error)}). The key must be allowed to read, write, list and delete there."
        )
    if type(error).__name__ in NO_KEYS:
        return (
            f"{_first_line(error)}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run: aws configure; "
            "on a cluster, on each node before Ray starts there."
        )
    return None


def _modified(entry: dict[str, Any]) -> Any:
    names = ("LastModified", "mtime", "last_modified", "updated", "created")
    return next((entry[name] for name in names if entry.get(name) is not None), 0)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
