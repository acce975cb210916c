"""Files that are whole or not there: temporary file, fsync, rename, fsync of the folder."""

import os
import socket
import uuid
from pathlib import Path

SUFFIX = ".tmp"


def write_whole(path: Path, content: bytes | str) -> None:
    """Writes a file so that a reader, even after a power loss, finds the old content or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    temporary = _temporary(path)
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def link_whole(source: Path, target: Path) -> None:
    """Makes `target` the same file as `source`, by a hard link where the file system has them."""
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


def sync_folder(folder: Path) -> None:
    """Makes renames in a folder survive a power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_abandoned(folder: Path) -> None:
    """Removes the temporary files of processes of this machine that died before they could rename them."""
    for path in folder.rglob(f".*{SUFFIX}"):
        _, host, pid, _ = path.name.rsplit("~", 3) if path.name.count("~") >= 3 else ("", "", "", "")
        if host == socket.gethostname() and not _is_alive(int(pid)):
            path.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """A hidden name beside the file that tells who writes it."""
    return path.parent / f".{path.name}~{socket.gethostname()}~{os.getpid()}~{uuid.uuid4().hex[:8]}{SUFFIX}"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
