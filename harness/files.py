"""Writes files completely or not at all: temporary file, fsync, rename, fsync of the folder."""

import hashlib
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.errors import HarnessError

SUFFIX = ".tmp"


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's content, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives a temporary path. The file there replaces `path` when the block ends without an exception.

    A reader finds the old content or the new one, also after a power loss.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):  # report the first error
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # such as of a write to a full disk
            error.filename = str(path)
        raise
    sync_folder(path.parent)


def write_whole(path: Path, content: bytes | str) -> None:
    """Writes a file completely or not at all."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def link_whole(source: Path, target: Path) -> None:
    """Makes `target` a hard link to `source`; a copy if the file system has no hard links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(target)
    try:
        os.link(source, temporary)
    except OSError:
        write_whole(target, source.read_bytes())
        return
    os.replace(temporary, target)
    temporary.unlink(missing_ok=True)  # rename() of two names of one file leaves both
    sync_folder(target.parent)


def check_folder(path: Path, what: str) -> None:
    """Raises `HarnessError` if a path is no folder and cannot become one; `what` names it, such as `--store`."""
    shown = str(path) if len(str(path)) < 200 else f"{str(path)[:200]}..."
    try:
        nearest = next((place for place in (path, *path.absolute().parents) if os.path.lexists(place)), path)
        if nearest.exists() and not nearest.is_dir():
            raise HarnessError(f"{what} {shown}: {nearest} is a file, not a folder.")
        path.exists()
    except OSError as error:
        raise HarnessError(f"{what} {shown}: {error.strerror}.") from None


def cache_folder() -> Path:
    """The user's folder for files that can be made again, by the XDG base directory specification."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "harness"


def sync_folder(folder: Path) -> None:
    """Makes renames in a folder survive a power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Gives an empty folder, which is deleted after the block."""
    folder = _temporary(parent / "scratch")
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(folder: Path) -> None:
    """Removes the temporary files and folders of processes of this machine that have died."""
    for path in list(folder.rglob(f".*{SUFFIX}")):
        _, host, pid, _ = path.name.rsplit("~", 3) if path.name.count("~") >= 3 else ("", "", "", "")
        if host == socket.gethostname() and not _is_alive(int(pid)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """A hidden name beside the file, with the host and the process that writes it."""
    return path.parent / f".{path.name}~{socket.gethostname()}~{os.getpid()}~{uuid.uuid4().hex[:8]}{SUFFIX}"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
