"""Small specs, stores of their own, and the command line."""

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running import Finished, Zygote
from small import SPEC

for ignored in (signal.SIGINT, signal.SIGHUP):  # by what a shell, or nohup, starts in the background
    if signal.getsignal(ignored) == signal.SIG_IGN:
        signal.signal(ignored, lambda *_: None)  # still ignored here, but not by the commands that tests start


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    started = Zygote(tmp_path_factory.mktemp("zygote"))
    yield started
    started.close()


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """A spec file that trains in a moment: `small.py`."""
    path = tmp_path / "small.py"
    path.write_text(SPEC)
    return path


@pytest.fixture
def harness(tmp_path: Path, zygote: Zygote) -> Callable[..., Finished]:
    """Runs the command line in a folder of its own: `harness("runs", spec)`; `code=` is what it must end with."""

    def run(*arguments: object, code: int | None = 0, **more: str) -> Finished:
        done = zygote.start(*arguments, cwd=tmp_path, **more).wait()
        assert code is None or done.code == code, done
        return done

    return run


@pytest.fixture(scope="session")
def swept(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `small.py` in a git repository, and `mlruns`: a sweep of 4 trials and a training run.

    For reading: a test that changes the store copies it first.
    """
    folder = tmp_path_factory.mktemp("swept")
    (folder / "small.py").write_text(SPEC)
    git = ["git", "-C", str(folder), "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "spec"]):
        subprocess.run([*git, *arguments], check=True, timeout=60)
    for arguments in (["sweep", "small.py", "--trials", "4", "--jobs", "1"], ["train", "small.py", "--set", "lr=0.3"]):
        done = zygote.start(*arguments, cwd=folder).wait()
        assert done.code == 0, done
    return folder
