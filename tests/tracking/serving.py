"""Real servers: PostgreSQL, an `mlflow server` that can be stopped and started again, a gate before it with moods."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from running import environment, wait_until

POSTGRESQL = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)  # as Debian packages it


class Database:
    """A PostgreSQL of its own on this machine; where there is none to start, what needs it is skipped."""

    def __init__(self) -> None:
        if POSTGRESQL is None:
            pytest.skip("needs PostgreSQL: apt-get install postgresql")
        pytest.importorskip("psycopg", reason="needs psycopg: pip install 'experiment-harness[postgres]'")
        self._bin, self._port = POSTGRESQL, free_port()
        self._folder = Path(self._run("mktemp", "-d"))  # of that user's own: a server refuses folders of others
        self._run(self._bin / "initdb", "-D", self._folder / "data", "-U", "harness", "--auth=trust", "--no-sync")
        options = f"-p {self._port} -k {self._folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._control("-l", self._folder / "log", "-o", options, "-w", "start")

    def create(self, name: str) -> str:
        """A new database; its address."""
        self._run(self._bin / "createdb", "-h", "127.0.0.1", "-p", self._port, "-U", "harness", name)
        return f"postgresql+psycopg://harness@127.0.0.1:{self._port}/{name}"

    def stop(self) -> None:
        self._control("-m", "immediate", "stop")
        shutil.rmtree(self._folder)

    def _control(self, *arguments: object) -> None:
        self._run(self._bin / "pg_ctl", "-D", self._folder / "data", *arguments)

    def _run(self, *arguments: object) -> str:
        as_postgres = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []  # root may not start it
        command = [*as_postgres, *map(str, arguments)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd="/", timeout=120)
        return done.stdout.strip()


class Server:
    """`mlflow server` on SQLite or another database, with artifacts proxied."""

    def __init__(self, folder: Path, database: str | None = None) -> None:
        self._folder = folder
        self._database = database or f"sqlite:///{folder / 'server.db'}"
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
             "--workers", "1", "--backend-store-uri", self._database,
             "--artifacts-destination", str(self._folder / "artifacts")],
            env=environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", MLFLOW_DISABLE_TELEMETRY="true"),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, cwd=self._folder,
        )  # fmt: skip
        wait_for_server(f"{self.uri}/health", self._process)

    def stop(self) -> None:
        """Kills it; one that was stopped before stays so."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(30)


class Gate:
    """Passes requests on to a server; `mood` is None, or the status that is answered instead.

    With `is_late` the request has been passed on by then: done, and its answer lost. The mood is for requests
    with `only` in their path.
    """

    def __init__(self, server: Server) -> None:
        self.mood: int | None = None
        self.is_late = False
        self.only = ""
        gate = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments: Any) -> None:
                pass

            def _pass(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, content = 200, b"{}"
                mood = gate.mood if gate.only in self.path else None
                if mood is None or gate.is_late:
                    request = urllib.request.Request(server.uri + self.path, body or None, method=self.command)
                    request.add_header("Content-Type", self.headers.get("Content-Type") or "application/json")
                    try:
                        with urllib.request.urlopen(request, timeout=30) as answer:
                            status, content = answer.status, answer.read()
                    except urllib.error.HTTPError as error:
                        status, content = error.code, error.read()
                if mood is not None:
                    status, content = mood, b"not now"
                with suppress(BrokenPipeError, ConnectionResetError):  # who asked was killed
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def wait_for_server(address: str, process: subprocess.Popen[Any], log: Path | None = None) -> None:
    """Waits until a server that was just started answers."""

    def why() -> str:
        return f"{address} does not answer: {log.read_text() if log else process.args}"

    def answers() -> bool:
        assert process.poll() is None, why()
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            return False
        return True

    wait_until(answers, why, seconds=150)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
