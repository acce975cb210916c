"""Shows MLflow's own pages: starts MLflow's server for a store, and stops it in the end."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from harness.errors import FAILED, HarnessError, without_login, without_password
from harness.tracking.making import DATABASE, database_uri
from harness.tracking.store import Store
from harness.tracking.view import links

HOST, PORT = "127.0.0.1", 5000
QUIET_HOST = "harness.localhost"  # this machine too, in most browsers; not one where MLflow opens its assistant
ADDRESS = f"http://{HOST}:{PORT}"  # the default; another port if this one is taken
LOCAL_HOSTS = ("localhost", "localhost:*", "127.0.0.1", "127.0.0.1:*", "[::1]", "[::1]:*")
MOST_PORTS = 50  # the most ports to try
START_SECONDS = 180.0
STOP_SECONDS = 10.0
ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # starts eleven fewer processes
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}


@dataclass(frozen=True, kw_only=True)
class Server:
    """MLflow's server, started by `serving`."""

    address: str
    process: subprocess.Popen[bytes]
    log: IO[bytes]

    def wait_until_ready(self) -> None:
        """Waits until it answers. Raises `HarnessError` with its last output if it ends instead."""
        ends = time.monotonic() + START_SECONDS
        while not _answers(f"{self.address}/health"):
            if self.process.poll() is not None or time.monotonic() > ends:
                raise HarnessError(f"MLflow's server did not start:\n{self._last_words()}", exit_code=FAILED)
            time.sleep(0.2)

    def wait(self) -> None:
        """Waits until it ends, and raises `HarnessError`: it should not end by itself."""
        self.process.wait()
        raise HarnessError(f"MLflow's server ended:\n{self._last_words()}", exit_code=FAILED)

    def _last_words(self) -> str:
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").strip().splitlines()
        return "\n".join(lines[-5:])


def show(
    folder: Path, experiment: str | None, *, study: str | int | None = None, port: int, say: Callable[[str], None]
) -> None:
    """Prints the addresses of MLflow's pages for an experiment, or for all; serves them until it is interrupted.

    If `MLFLOW_TRACKING_URI` names a server, it prints that server's addresses and starts nothing. Raises
    `HarnessError` if there are no runs, or if the server does not start.
    """
    remote = os.environ.get("MLFLOW_TRACKING_URI", "")
    if remote.startswith(("http://", "https://")):
        say(_listed(links(Store(folder), without_password(remote), experiment, study=study)))
        return
    if remote:
        raise HarnessError(
            f"MLFLOW_TRACKING_URI is {without_login(remote)}: unset it to see --store {folder}, or name a server."
        )
    if not (folder / DATABASE).exists():
        raise HarnessError(f"{folder} holds no runs yet; start with: python -m harness sweep SPEC --store {folder}")
    chosen = free_port(port)
    if chosen != port:
        say(f"port {port} is in use; {chosen} is free.")
    say("starting MLflow's pages; that takes a while ...")
    store = Store(folder)
    with serving(
        folder, chosen, database=store.database
    ) as server:  # the server starts while this process loads MLflow
        pages = links(store, server.address, experiment, study=study)
        server.wait_until_ready()
        say(_listed(pages))
        say(
            "MLflow's assistant opens on a first visit and covers part of a page: close it once, or write "
            f"{QUIET_HOST} in place of {HOST} (Chrome, Firefox), where it stays closed. Ctrl-C stops it."
        )
        server.wait()


def free_port(wanted: int) -> int:
    """The wanted port, or the next one that is free."""
    for port in range(wanted, min(wanted + MOST_PORTS, 2**16)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was used a moment ago is free
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise HarnessError(f"--port {wanted}: this port and the {MOST_PORTS - 1} after it are taken.")


@contextmanager
def serving(folder: Path, port: int, *, database: Path | None = None) -> Iterator[Server]:
    """MLflow's server for a store's folder, for a `with` block. It takes seconds until it answers.

    `database` is the store's, or the copy of it that stands in where the store cannot be written.
    No process is left when the block ends, also after SIGTERM.
    """
    artifacts = (folder.absolute() / "artifacts").as_uri()
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", HOST, "--port", str(port)),
        *("--backend-store-uri", database_uri(database or folder.absolute() / DATABASE)),
        *("--no-serve-artifacts", "--default-artifact-root", artifacts),
        *("--allowed-hosts", ",".join((*LOCAL_HOSTS, QUIET_HOST, f"{QUIET_HOST}:*"))),
        *("--cors-allowed-origins", f"http://{QUIET_HOST}:*"),
    ]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    with tempfile.TemporaryFile() as log, _stopped_by(signal.SIGTERM, signal.SIGHUP):
        process = None
        try:
            with _held(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as arrived:  # else a signal could leave a process
                process = subprocess.Popen(
                    command,
                    env=kept | ENVIRONMENT,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # a process group of its own: `_end` ends it with its children
                )
            if arrived:
                raise KeyboardInterrupt
            yield Server(address=f"http://{HOST}:{port}", process=process, log=log)
        finally:
            if process is not None:
                _end(process)


def _listed(pages: Mapping[str, str]) -> str:
    width = max(map(len, pages))
    return "\n".join(f"{name:<{width}}  {address}" for name, address in pages.items())


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and its children: with SIGTERM, then with SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        ends = time.monotonic() + STOP_SECONDS
        while _group_lives(process) and time.monotonic() < ends:
            time.sleep(0.05)


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def _stopped_by(*numbers: int) -> Iterator[None]:
    """In the block, these signals have the effect of Ctrl-C."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {
        number: signal.signal(number, stop) for number in numbers
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _held(*numbers: int) -> Iterator[list[int]]:
    """Collects these signals during the block, instead of acting on them."""
    arrived: list[int] = []
    before = {number: signal.signal(number, lambda n, _: arrived.append(n)) for number in numbers}
    try:
        yield arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
