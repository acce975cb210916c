"""Small specs, stores of their own, and the command line as users run it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent

SPEC = '''
"""A small network on generated features: trains in a moment, and plateaus."""

import torch
from torch import nn, optim

from harness import Experiment, search
from harness.data import tensors


class Small(Experiment):
    epochs = 8
    batch_size = 32
    trials = 6

    lr: float = search.log_uniform(1e-3, 1.0, points=4, default=1e-1)
    momentum: float = search.choice(0.5, 0.9, default=0.9)
    patience: int = search.integer(0, 2, default=1)
    factor: float = search.choice(0.1, 0.5, default=0.1)

    def data(self):
        generator = torch.Generator().manual_seed(1)
        inputs = torch.randn(400, 6, generator=generator)
        targets = (inputs[:, :3].sum(1) + 0.8 * torch.randn(400, generator=generator) > 0).long()
        return tensors(inputs, targets, validation=0.25, test=0.25)

    def model(self):
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))

    def optimizer(self, parameters):
        return optim.SGD(parameters, lr=self.lr, momentum=self.momentum)

    def scheduler(self, optimizer):
        return optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience)
'''


@dataclass(frozen=True)
class Finished:
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def __repr__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


class Zygote:
    """Starts commands from a process that has loaded the slow libraries already: see `zygote.py`."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "zygote.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip

    def start(self, *arguments: object, cwd: Path, **more: str) -> "Started":
        self._count += 1
        out, err = (self._folder / f"{self._count}.{name}" for name in ("out", "err"))
        out.touch()
        err.touch()
        request = {"argv": list(map(str, arguments)), "cwd": str(cwd), "env": environment(**more)}
        answer = self.ask(request | {"out": str(out), "err": str(err)})
        return Started(self, answer["pid"], out, err)

    def ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


@dataclass(frozen=True)
class Started:
    """A command that is running, leader of a session of its own."""

    zygote: Zygote
    pid: int
    out: Path
    err: Path

    def signal(self, number: int) -> None:
        """Signals the command alone."""
        os.kill(self.pid, number)

    def kill(self) -> Finished:
        """SIGKILL to the command and its workers, as a power cut would."""
        os.killpg(self.pid, signal.SIGKILL)
        return self.wait()

    def wait(self) -> Finished:
        code = self.zygote.ask({"wait": self.pid})["code"]
        return Finished(code, self.out.read_text(), self.err.read_text())

    def wait_for(self, text: str, timeout: float = 60) -> None:
        """Waits until the command has printed a text."""
        ends = time.monotonic() + timeout
        while text not in self.out.read_text() + self.err.read_text():
            assert time.monotonic() < ends, f"no {text!r} in:\n{self.out.read_text()}{self.err.read_text()}"
            time.sleep(0.02)


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
        subprocess.run([*git, *arguments], check=True)
    for arguments in (["sweep", "small.py", "--trials", "4", "--jobs", "1"], ["train", "small.py", "--set", "lr=0.3"]):
        done = zygote.start(*arguments, cwd=folder).wait()
        assert done.code == 0, done
    return folder


def command(*arguments: object) -> list[str]:
    """The command line of a harness command."""
    return [sys.executable, "-m", "harness", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    """The environment that a command gets: this checkout first, nothing of the caller's store."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "HARNESS_"))}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | more
