"""The live report: the same page, served on this machine, and updated while a sweep runs."""

import html
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from harness.errors import HarnessError
from harness.reporting.gather import gather
from harness.reporting.pages.page import build_page
from harness.reporting.report import make_page
from harness.tracking.runs import read_state
from harness.tracking.store import Store
from harness.tracking.ui import HOST, free_port

REST = 8  # the pause between two pages is so many times the time that a page took
WAITING = """<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="2"><title>{name}</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,"><body style="font: 15px/1.5 system-ui, sans-serif; max-width: 40rem; margin: 3rem auto">
<h1>{name}</h1><p>{reason}</p><p>This page is updated every two seconds.</p>"""


class LivePage:
    """The newest page of a study. It is made again when something was logged, but not all the time."""

    def __init__(self, folder: Path, name: str, study: str | int | None) -> None:
        self._folder, self._name, self._study = folder, name, study
        self._store: Store | None = None
        self._lock = threading.Lock()
        self._state, self._text = "", ""
        self._again_at = 0.0

    def get(self, seen: str) -> str | None:
        """The page, or None where a browser has seen its state."""
        with self._lock:
            if time.monotonic() >= self._again_at:
                self._renew()
            return None if seen and seen == self._state else self._text

    def _renew(self) -> None:
        began = time.monotonic()
        try:
            self._store = self._store or Store(self._folder)
            state = read_state(self._store, self._name)
            if state != self._state:
                facts = gather(self._store, self._name, study=self._study, is_live=True)
                page = make_page(self._store, facts, study=self._study, live=state)
                self._state, self._text = state, build_page(page)
        except HarnessError as error:  # such as no run yet
            self._state = ""
            self._text = WAITING.format(name=html.escape(self._name), reason=html.escape(str(error)))
        self._again_at = time.monotonic() + REST * (time.monotonic() - began)


def serve(folder: Path, name: str, *, study: str | int | None = None, port: int, say: Callable[[str], None]) -> None:
    """Serves the page of a study on this machine until it is interrupted.

    The sweep may run on another machine that shares the store's folder or tracking server.
    """
    live = LivePage(folder, name, study)
    chosen = free_port(port)
    own = {f"{host}:{chosen}" for host in (HOST, "localhost")}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Host") not in own:  # a page of elsewhere that names this machine as its own
                self.send_error(403)
            elif self.path != "/":
                self.send_error(404)
            elif (text := live.get(self.headers.get("X-Seen", ""))) is None:
                self.send_response(204)
                self.end_headers()
            else:
                content = text.encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing: the terminal shows the address."""

    with ThreadingHTTPServer((HOST, chosen), Handler) as server:
        server.daemon_threads = True
        say(f"live report of {name}: http://{HOST}:{chosen}/")
        say("Ctrl-C stops it; a sweep goes on.")
        server.serve_forever()
