"""A process that has loaded torch, MLflow and Optuna once, and forks a real command line from itself on request.

Requests come as JSON lines on stdin. Each command runs in a process and a session of its own, with real workers: only
the time of importing is saved. A command that does not end in time is killed, and says first where it stood.
"""

import contextlib
import ctypes
import faulthandler
import importlib
import json
import os
import select
import signal
import sys

SLOW = (
    "mlflow.store.tracking.sqlalchemy_store",
    "pandas",
    "sklearn.datasets",
    "harness.results.compare",
    "harness.results.confirm",
    "harness.results.reload",
    "harness.workers.preload",
    "harness.searching.study",
    "harness.searching.commands",
)


def main() -> None:
    for module in SLOW:
        importlib.import_module(module)

    running = set[int]()
    for line in sys.stdin:
        number, request = json.loads(line)
        if "wait" in request:
            answer = wait(request["wait"], request["seconds"])
            running.discard(request["wait"])
        else:
            answer = start(**request)
            running.add(answer)
        print(json.dumps([number, answer]), flush=True)
    for pid in running:  # of tests that failed before they waited
        kill_group(pid)


def wait(pid: int, seconds: float) -> int | None:
    """The exit code of a command; None where it had to be killed, since it did not end in so many seconds."""
    handle = os.pidfd_open(pid)
    in_time = bool(select.select([handle], [], [], seconds)[0])
    if not in_time:
        os.kill(pid, signal.SIGUSR1)  # writes the stack of each thread
        select.select([handle], [], [], 1)
        kill_group(pid)
    os.close(handle)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) if in_time else None


def kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def become(user: int) -> None:
    """Makes this process another user's, who may read everything: Python itself can lie in a folder of root's."""
    libc, keep_capabilities, version, read_search = ctypes.CDLL(None), 8, 0x20080522, 1 << 2
    os.setgroups([])
    os.setgid(user)
    assert libc.prctl(keep_capabilities, 1, 0, 0, 0) == 0
    os.setuid(user)
    chosen = (ctypes.c_uint32 * 6)(read_search, read_search, 0, 0, 0, 0)
    assert libc.capset((ctypes.c_uint32 * 2)(version, 0), chosen) == 0


def start(argv: list[str], cwd: str, env: dict[str, str], out: str, err: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    # What a shell, or nohup, starts in the background ignores these.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env, HARNESS_START_METHOD="fork")
    for number, path in ((0, os.devnull), (1, out), (2, err)):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(handle, number)
    sys.stdin, sys.stdout, sys.stderr = (open(number, mode, buffering=1) for number, mode in enumerate("rww"))
    faulthandler.register(signal.SIGUSR1, sys.stderr)
    if "RUN_AS" in env:  # another user, as only root can be
        become(int(env["RUN_AS"]))
    sys.argv = ["harness", *argv]
    code = 1
    try:
        from harness.cli import main

        main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
