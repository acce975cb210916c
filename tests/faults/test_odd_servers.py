"""Tracking servers that answer, but not as MLflow does: a sentence, at once, and nothing is trained for nothing."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from inprocess import assert_sentence, run
from running import Finished
from small import SPEC

ANSWERS = {
    "nothing": b"",
    "text": b"hello",
    "a page": b"<!doctype html><title>Sign in</title>",
    "an empty object": b"{}",
    "a list": b"[]",
    "null": b"null",
    "another object": b'{"experiments": 3, "run": [], "status": "ok"}',
}


@pytest.fixture
def odd(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a server that answers everything with the status 200 and the same words."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(200)
            self.send_header("Content-Length", str(len(request.param)))
            self.end_headers()
            self.wfile.write(request.param)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("odd", ANSWERS.values(), ids=ANSWERS, indirect=True)
def test_a_server_that_answers_200_with_nonsense_is_said_in_a_sentence(odd: str, tmp_path: Path) -> None:
    (tmp_path / "small.py").write_text(SPEC)
    done = run("reload", "best", "small.py", cwd=tmp_path, MLFLOW_TRACKING_URI=odd)
    assert_sentence(done, 1, f"{odd} answers, but not as MLflow does.")


@pytest.mark.parametrize("odd", [b"{}"], indirect=True)
def test_nothing_is_trained_for_a_server_that_is_none_of_mlflows(
    odd: str, harness: Callable[..., Finished], spec: Path, tmp_path: Path
) -> None:
    done = harness("sweep", spec, "--jobs", 1, "--trials", 1, code=1, MLFLOW_TRACKING_URI=odd)
    assert done.err == f"harness: {odd} answers, but not as MLflow does.\n"
    assert not list(tmp_path.rglob("*.pth.tar")) and "trial-0000" not in done.out
