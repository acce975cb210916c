"""The command line inside the test's own process: torch and MLflow are loaded once for hundreds of commands."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from running import Finished

from harness.cli.app import main


def run(*arguments: object, cwd: Path, **more: str) -> Finished:
    """A command that starts no workers, as `python -m harness` would run it in a folder."""
    out, err = io.StringIO(), io.StringIO()
    argv, code = sys.argv, 0
    with _in(cwd, more), redirect_stdout(out), redirect_stderr(err):
        sys.argv = ["harness", *map(str, arguments)]
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        finally:
            sys.argv = argv
    return Finished(code, out.getvalue(), err.getvalue())


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder below one, with size and time of change: equal where nothing was written."""
    found = {}
    for path in sorted(folder.rglob("*")):
        stat = path.lstat()
        if path.name != "store.lock":  # taken also by who only reads
            found[str(path.relative_to(folder))] = (
                stat.st_size if not path.is_dir() else 0,
                stat.st_mtime_ns * path.is_file(),
            )
    return found


def assert_sentence(done: Finished, code: int, told: str) -> None:
    """An error is one or two plain sentences that say this, on stderr alone, and no traceback of ours."""
    assert done.code == code, done
    assert told in done.err, done
    assert done.out == "" or code == 0, done
    assert "Traceback" not in done.err or "Traceback (from your code down)" in done.err, done
    if "Traceback" not in done.err:
        assert len(done.err) < 900 and done.err.count("\n") <= 4, done
    assert os.sep + "harness" + os.sep not in done.err.replace("mlruns", ""), done


@contextmanager
def _in(folder: Path, more: dict[str, str]) -> Iterator[None]:
    before, environ = Path.cwd(), dict(os.environ)
    for name in [name for name in environ if name.startswith(("MLFLOW_", "HARNESS_"))]:
        del os.environ[name]
    os.environ.update(more)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environ)
