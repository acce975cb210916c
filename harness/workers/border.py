"""What the driver needs from workers, local ones or those on a cluster."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from harness.errors import FAILED, HarnessError, NotCaptured, UserCodeError
from harness.workers.messages import Failed, PreflightReport, Request


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A worker ended without a message: it was killed, most likely for its memory, or its machine was lost."""

    exit_code: int | None
    place: str | None = None  # its node; None: this machine
    is_node: bool = False  # its node was lost: not the run's fault


class Workers(Protocol):
    """Starts workers, and exchanges messages with them. A worker is named by its number."""

    def fit(self, report: PreflightReport) -> int: ...
    def has_room(self) -> bool: ...
    def start(self) -> int: ...
    def place(self, worker: int) -> str | None: ...
    def send(self, worker: int, message: Any) -> None: ...
    def receive(self, timeout_seconds: float | None) -> Sequence[tuple[int, Any]]: ...
    def stop(self, worker: int) -> None: ...
    def kill_all(self) -> None: ...
    def close(self) -> None: ...


def ask_worker(workers: Workers, worker: int, request: Request) -> Any:
    """Sends one request and waits for its one answer; raises the error of a `Failed`."""
    workers.send(worker, request)
    while True:
        for number, answer in workers.receive(None):
            if number != worker:
                continue
            if isinstance(answer, Lost):
                raise HarnessError(
                    f"The worker process was killed ({describe_exit(answer)}); is there enough memory?",
                    exit_code=FAILED,
                )
            if isinstance(answer, Failed):
                raise error_of(answer, answer.message)
            return answer


def error_of(failed: Failed, message: str) -> Exception:
    """The exception for a failed request, to be raised in the driver's process."""
    if failed.kind == "graph":
        return NotCaptured(message)
    if failed.kind == "bug":
        return RuntimeError(f"{message}\n{failed.trace}")
    if failed.trace:
        return UserCodeError(message, trace=failed.trace, exit_code=failed.exit_code)
    return HarnessError(message, exit_code=failed.exit_code)


def describe_exit(lost: Lost) -> str:
    """How a worker's process ended."""
    code = lost.exit_code
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
