"""Faults of the machine end the command with a sentence and fail no trial; after the repair all is as it would be."""

import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from comparing import assert_same_sweeps, read_study
from running import Finished
from small import SPEC, edit

Harness = Callable[..., Finished]
SWEEP = ("sweep", "small.py", "--jobs", 1, "--trials", 3)
SENTENCE = "Everything trained so far is kept; once that is fixed, the same command goes on."
# In the middle of a trial a worker meets the fault that a file `broken` names, as long as that is there.
BREAKING = """    def loss(self):
        import subprocess
        from pathlib import Path

        from harness.training import writer

        compute = nn.CrossEntropyLoss()
        steps = iter(range(10**9))

        def refuse(path, content):
            raise OSError(int(Path("broken").read_text()), "broken", str(path))

        def loss(outputs, targets):
            if next(steps) == 60 and Path("broken").exists():
                writer.write_whole = refuse
            if Path("break.sh").exists() and next(steps) > 60:
                subprocess.run(["sh", "break.sh"], check=True)
                Path("break.sh").unlink()
            return compute(outputs, targets)

        return loss

    def model(self):"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, zygote: Any) -> Path:
    """A folder where nothing went wrong."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_spec(folder)
    done = zygote.start(*SWEEP, cwd=folder).wait()
    assert done.code == 0, done
    return folder


def write_spec(folder: Path) -> None:
    (folder / "small.py").write_text(SPEC)
    edit(folder / "small.py", "    def model(self):", BREAKING)


def assert_same(folder: Path, undisturbed: Path) -> None:
    assert_same_sweeps(folder / "mlruns", undisturbed / "mlruns")


@pytest.mark.parametrize("name", ["EACCES", "EDQUOT", "ESTALE", "EMFILE", "EAGAIN"])
def test_what_a_worker_cannot_write_fails_no_trial(
    name: str, harness: Harness, tmp_path: Path, undisturbed: Path
) -> None:
    write_spec(tmp_path)
    number = getattr(errno, name)
    (tmp_path / "broken").write_text(str(number))
    done = harness(*SWEEP, code=1)
    last = done.err.strip().splitlines()[-1]
    assert last.startswith(f"harness: {tmp_path}/mlruns/") and last.endswith(f": {os.strerror(number)}. {SENTENCE}")
    assert "Traceback" not in done.err
    assert {trial["state"] for trial in read_study(tmp_path / "mlruns")} == {"RUNNING"}
    (tmp_path / "broken").unlink()
    harness(*SWEEP)
    assert_same(tmp_path, undisturbed)


@pytest.fixture
def immutable() -> Iterator[Callable[[Path], str]]:
    """Gives the shell command that takes all permission from a folder, also root's; undone at the end."""
    chattr, taken = shutil.which("chattr"), []

    def take(folder: Path) -> str:
        taken.append(folder)
        return f"{chattr} +i {folder}"

    if chattr is None:
        pytest.skip("chattr is not here: root may write everywhere")
    yield take
    for folder in taken:
        subprocess.run([chattr, "-i", str(folder)], check=False)


@pytest.mark.parametrize("part", ["paths/*", "artifacts/small", ".", "mlflow.db"])
def test_a_store_that_cannot_be_written_from_now_on_fails_no_trial(
    part: str, harness: Harness, tmp_path: Path, undisturbed: Path, immutable: Callable[[Path], str]
) -> None:
    write_spec(tmp_path)
    store = tmp_path / "mlruns"
    probe = tmp_path / "probe"
    probe.mkdir()
    if subprocess.run(["sh", "-c", f"{immutable(probe)} && ! touch {probe}/x 2>/dev/null"], check=False).returncode:
        pytest.skip("this file system has no chattr +i")
    (tmp_path / "break.sh").write_text(immutable(store / part))
    done = harness(*SWEEP, code=1)
    assert "Traceback" not in done.err and len(done.err.strip().splitlines()) == 1, done
    subprocess.run(f"chattr -i {store}/{part}", shell=True, check=True)
    (tmp_path / "break.sh").unlink(missing_ok=True)  # the worker may have ended before it did so
    assert "FAIL" not in {trial["state"] for trial in read_study(store)}
    harness(*SWEEP)
    assert_same(tmp_path, undisturbed)


@pytest.mark.parametrize("move", ["mv mlruns away", "mkdir away && mv mlruns/* away 2>/dev/null"])
def test_a_store_that_is_moved_away_during_a_sweep_is_said_and_the_sweep_goes_on_where_it_is_back(
    move: str, harness: Harness, tmp_path: Path, undisturbed: Path
) -> None:
    write_spec(tmp_path)
    (tmp_path / "break.sh").write_text(move)
    done = harness(*SWEEP, code=1)
    assert "mlruns was moved or removed while it was used. Bring it back" in done.err, done
    assert "Traceback" not in done.err and len(done.err.strip().splitlines()) == 1, done
    shutil.rmtree(tmp_path / "mlruns", ignore_errors=True)
    (tmp_path / "away").rename(tmp_path / "mlruns")
    (tmp_path / "break.sh").unlink(missing_ok=True)
    harness(*SWEEP)
    assert_same(tmp_path, undisturbed)


@pytest.fixture
def full_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of its own, without room."""
    folder = tmp_path / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small file system")
    with suppress(OSError), open(folder / "filler", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_temporary_folder_is_no_traceback_and_no_failed_trial(
    harness: Harness, tmp_path: Path, undisturbed: Path, full_folder: Path
) -> None:
    write_spec(tmp_path)
    done = harness(*SWEEP, code=None, TMPDIR=str(full_folder))
    assert "Traceback" not in done.err and len(done.err.splitlines()) <= 1, done
    assert done.code == 0 or os.strerror(errno.ENOSPC) in done.err, done
    harness(*SWEEP)
    assert_same(tmp_path, undisturbed)
    done = harness("reload", "best", code=None, TMPDIR=str(full_folder))
    assert "Traceback" not in done.err and (done.code == 0 or os.strerror(errno.ENOSPC) in done.err), done


@pytest.mark.parametrize("megabytes", [0, 80])
def test_a_limit_of_memory_is_no_hang(megabytes: int, zygote: Any, tmp_path: Path) -> None:
    write_spec(tmp_path)
    started = zygote.start(*SWEEP, cwd=tmp_path)
    used = psutil.Process(started.pid).memory_info().vms
    resource.prlimit(started.pid, resource.RLIMIT_AS, (used + megabytes * 2**20,) * 2)
    done = started.wait(90)
    assert "Traceback" not in done.err and len(done.err.strip().splitlines()) <= 1, done
    assert done.code in (0, 1), done
