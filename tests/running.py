"""The command line as users run it, in processes of its own. Every wait has a limit."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
COMMAND_SECONDS = 200  # a command ends in them, also on a busy machine; less than pytest gives a test


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
        self._folder, self._count, self._asked = folder, 0, 0
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
        return Started(self, self.ask(request | {"out": str(out), "err": str(err)}), out, err)

    def ask(self, request: dict[str, Any], seconds: float = COMMAND_SECONDS) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._asked += 1
        print(json.dumps([self._asked, request]), file=self._process.stdin, flush=True)
        while True:
            ready, _, _ = select.select([self._process.stdout], [], [], seconds)
            assert ready, f"no answer from the process that starts commands, in {seconds} seconds, to {request}"
            number, answer = json.loads(self._process.stdout.readline())
            if number == self._asked:  # else: asked by a test that pytest ended before the answer came
                return answer

    def close(self) -> None:
        self._process.communicate(timeout=COMMAND_SECONDS)


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

    def wait(self, seconds: float = COMMAND_SECONDS) -> Finished:
        code = self.zygote.ask({"wait": self.pid, "seconds": seconds}, seconds + 30)
        assert code is not None, f"it had not ended after {seconds} seconds, and was killed:\n{self.printed()}"
        return Finished(code, self.out.read_text(), self.err.read_text())

    def wait_for(self, text: str, seconds: float = COMMAND_SECONDS) -> None:
        """Waits until the command has printed a text."""
        wait_until(lambda: text in self.printed(), lambda: f"no {text!r} in:\n{self.printed()}", seconds)

    def printed(self) -> str:
        return self.out.read_text() + self.err.read_text()


def wait_until(holds: Callable[[], object], otherwise: Callable[[], str] = str, seconds: float = 60) -> None:
    """Waits until something holds; after so many seconds, an assertion error that says `otherwise`."""
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, otherwise()
        time.sleep(0.02)


def command(*arguments: object) -> list[str]:
    """The command line of a harness command."""
    return [sys.executable, "-m", "harness", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    """The environment that a command gets: this checkout first, nothing of the caller's store."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "HARNESS_"))}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "HARNESS_REGISTER": "0"} | more
