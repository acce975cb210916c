"""Signals and lost processes: the command says how to go on, and leaves no process behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
from running import Finished, Started, Zygote, wait_until
from small import HOLD, slow

GOES_ON = "stopped. Everything trained so far is kept; the same command goes on."


def processes_of(started: Started) -> list[int]:
    """The processes of a command's session that are alive."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == started.pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (psutil.Error, ProcessLookupError):
            continue
    return found


def test_a_closed_terminal_stops_a_sweep_which_says_how_to_go_on_and_leaves_no_process(
    zygote: Zygote, harness: Callable[..., Finished], spec: Path, tmp_path: Path
) -> None:
    slow(spec, 0.1)
    started = zygote.start("sweep", spec, "--jobs", 2, "--trials", 3, cwd=tmp_path)
    started.wait_for("epoch 2/8")
    (tmp_path / HOLD).touch()
    assert len(processes_of(started)) > 2
    started.signal(signal.SIGHUP)
    done = started.wait()
    assert done.code == 130 and GOES_ON in done.out + done.err and "Traceback" not in done.err, done
    wait_until(lambda: not processes_of(started), lambda: f"left: {processes_of(started)}")
    (tmp_path / HOLD).unlink()
    harness("sweep", spec, "--jobs", 2, "--trials", 3, HARNESS_PACE="0")
    runs = harness("runs", spec, "--json").json
    assert [run["status"] for run in runs] == ["FINISHED"] * 3


def test_an_exporter_that_lost_its_driver_ends_without_a_word(zygote: Zygote, spec: Path, tmp_path: Path) -> None:
    started = zygote.start("sweep", spec, "--jobs", 1, "--trials", 2, cwd=tmp_path, HARNESS_REGISTER="1")
    started.wait_for("for MLflow's model registry ...")
    assert len(processes_of(started)) > 1
    started.signal(signal.SIGKILL)
    assert started.wait().code == -signal.SIGKILL
    wait_until(lambda: not processes_of(started), lambda: f"left: {processes_of(started)}")
    assert not started.err.read_text()


def test_ctrl_c_while_the_libraries_load_shows_no_traceback_of_the_process_that_loads_them() -> None:
    probe = """
import os, signal, sys
class Loading:
    def find_spec(self, name, *_):
        if name == "torch":  # in the middle of it: Ctrl-C reaches every process of the terminal
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Loading())
import harness.workers.forkserver
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
