"""Starts processes, in the present folder and environment. They do not run the caller's script."""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any

PRELOADED = "harness.workers.forkserver"
AT_IMPORT = {  # of torch, in the process that the others start from; until a worker knows its own number of threads
    "OMP_NUM_THREADS": "1",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
_starting = threading.Lock()


def process_context() -> BaseContext:
    """How processes are started: on Linux they are forked from one that has loaded torch, in milliseconds."""
    default = "forkserver" if sys.platform == "linux" else "spawn"
    context = multiprocessing.get_context(os.environ.get("HARNESS_START_METHOD") or default)
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload([PRELOADED])
    return context


def start_process(context: BaseContext, target: Callable[..., None], *arguments: Any, daemon: bool) -> BaseProcess:
    """Starts a function of this package in a process of its own, in the present folder and environment.

    Python would run the caller's script again in each process, if it has no `if __name__ == "__main__"`. So Python is
    given an empty script instead.
    """
    preset = AT_IMPORT if context.get_start_method() == "forkserver" else {}
    environment = preset | os.environ
    process: BaseProcess = context.Process(  # type: ignore[attr-defined]
        target=_run, args=(os.getcwd(), environment, target, arguments), daemon=daemon
    )
    with _starting, _without_main(), _environment(environment):
        process.start()
    return process


def _run(folder: str, environment: dict[str, str], target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Runs in the new process: sets the present folder and environment, since it was forked with older ones."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    target(*arguments)


@contextmanager
def _without_main() -> Iterator[None]:
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _environment(wanted: dict[str, str]) -> Iterator[None]:
    """Sets variables for a `with` block, and restores the caller's environment."""
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
