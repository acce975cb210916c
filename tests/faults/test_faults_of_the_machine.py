"""Faults of the machine end the command with a sentence and fail no trial; after the repair all is as it would be."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from comparing import assert_same_checkpoints, read_store, read_study
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
    ours, theirs = folder / "mlruns", undisturbed / "mlruns"
    assert read_store(ours) == read_store(theirs)
    assert read_study(ours) == read_study(theirs)
    assert_same_checkpoints(ours, theirs)


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
    assert "FAIL" not in {trial["state"] for trial in read_study(store)}
    harness(*SWEEP)
    assert_same(tmp_path, undisturbed)
