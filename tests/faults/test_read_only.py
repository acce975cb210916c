"""Stores that this user cannot write, in two more ways: another user's, and on a read-only mount."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from inprocess import listing, run
from running import Zygote

NOBODY = 65534
LOOKING: tuple[tuple[str, ...], ...] = (
    ("runs", "small.py", "--json"),
    ("best", "small.py", "--json"),
    ("reload", "best", "small.py", "--json", "--device", "cpu"),
    ("report", "small.py", "--output", "{out}/page.html"),
)


@pytest.fixture
def folder(swept: Path) -> Iterator[Path]:
    """A copy of a sweep in a place that every user can read."""
    made = Path(tempfile.mkdtemp(prefix="harness-read-only-"))
    shutil.copytree(swept / "mlruns", made / "mlruns")
    shutil.copy(swept / "small.py", made)
    run("runs", "small.py", cwd=made)  # the store is at home here now
    for path in (made, *made.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def out() -> Iterator[Path]:
    """A folder that every user can write."""
    made = Path(tempfile.mkdtemp(prefix="harness-out-"))
    made.chmod(0o777)
    yield made
    shutil.rmtree(made)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_users_store_can_be_read_and_is_not_changed(zygote: Zygote, folder: Path, out: Path) -> None:
    before = listing(folder)
    more: dict[str, Any] = {"RUN_AS": str(NOBODY), "HOME": str(out), "HARNESS_TRUST": str(folder / "mlruns")}
    for arguments in LOOKING:
        done = zygote.start(*(word.format(out=out) for word in arguments), cwd=folder, **more).wait()
        assert done.code == 0 and not done.err, done
    assert (out / "page.html").stat().st_uid == NOBODY
    done = zygote.start("sweep", "small.py", "--trials", 9, "--jobs", 1, cwd=folder, **more).wait()
    assert done.code == 1 and "ermission denied" in done.err and "Traceback" not in done.err, done
    assert listing(folder) == before


def test_a_store_on_a_read_only_mount_can_be_read(zygote: Zygote, folder: Path, tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    commands = (["mount", "--bind", folder, mounted], ["mount", "-o", "remount,bind,ro", mounted])
    if any(subprocess.run(command, capture_output=True, check=False).returncode for command in commands):
        pytest.skip("this user may not mount a folder read-only")
    try:
        with pytest.raises(OSError, match="Read-only"):
            (mounted / "x").touch()
        for arguments in LOOKING[:-1]:  # the report is the same with any store that cannot be written
            done = zygote.start(*arguments, cwd=mounted).wait()
            assert done.code == 0 and not done.err, done
        done = zygote.start("sweep", "small.py", "--trials", "9", "--jobs", "1", cwd=mounted).wait()
        assert done.code != 0 and "Read-only file system" in done.err and "Traceback" not in done.err, done
    finally:
        subprocess.run(["umount", "-l", str(mounted)], check=True)
