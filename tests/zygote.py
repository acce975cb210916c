"""A process that has loaded torch, MLflow and Optuna once, and forks a real command line from itself on request.

Commands come as JSON lines on stdin; each runs in a process and session of its own, with real workers.
Only the seconds of importing are saved.
"""

import importlib
import json
import os
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

    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = {"code": os.waitstatus_to_exitcode(status)}
        else:
            answer = {"pid": start(**request)}
        print(json.dumps(answer), flush=True)


def start(argv: list[str], cwd: str, env: dict[str, str], out: str, err: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env, HARNESS_START_METHOD="fork")
    for number, path in ((0, os.devnull), (1, out), (2, err)):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(handle, number)
    sys.stdin, sys.stdout, sys.stderr = (open(number, mode, buffering=1) for number, mode in enumerate("rww"))
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
