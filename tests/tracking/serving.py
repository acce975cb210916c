"""A real `mlflow server` that can be stopped and started again, and a gate before it that has moods."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from running import environment


class Server:
    """`mlflow server` on SQLite or another database, with artifacts proxied."""

    def __init__(self, folder: Path, database: str | None = None) -> None:
        self._folder = folder
        self._database = database or f"sqlite:///{folder / 'server.db'}"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
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
        ends = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            except OSError:
                assert time.monotonic() < ends and self._process.poll() is None, "mlflow server did not start"
                time.sleep(0.2)

    def stop(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Gate:
    """Passes requests on to a server; `mood` is None, or the status that is answered instead.

    With `is_late` the request has been passed on by then: done, and its answer lost.
    """

    def __init__(self, server: Server) -> None:
        self.mood: int | None = None
        self.is_late = False
        gate = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments: Any) -> None:
                pass

            def _pass(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, content = 200, b"{}"
                if gate.mood is None or gate.is_late:
                    request = urllib.request.Request(server.uri + self.path, body or None, method=self.command)
                    request.add_header("Content-Type", self.headers.get("Content-Type") or "application/json")
                    try:
                        with urllib.request.urlopen(request, timeout=30) as answer:
                            status, content = answer.status, answer.read()
                    except urllib.error.HTTPError as error:
                        status, content = error.code, error.read()
                if gate.mood is not None:
                    status, content = gate.mood, b"not now"
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
