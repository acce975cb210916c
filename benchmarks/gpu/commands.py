"""Whole commands as a user gives them: the demo, a kill and the same command again, the speedrun."""

import json
import os
import signal
import sqlite3
import subprocess
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from common import HERE, SPECS, environment, harness, run_command
from same_numbers import differences

from gpu.child import Rows
from gpu.data import images_of
from gpu.repeat import yes
from gpu.running import Given

DEMO = HERE.parent / "experiments" / "vgg_cifar.py"
WAIT_SECONDS = 240


def check_kill(given: Given, rows: Rows) -> None:
    """A sweep is killed with all its processes in the middle of a run; the same command ends as if it had not been."""
    whole, killed = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp())
    more = {"BENCH_WIDTH": "4" if given.quick else "32", "BENCH_IMAGES": str(images_of(given))}
    sweep = [
        "sweep", SPECS / "images.py", "--jobs", 2, "--trials", 4, "--epochs", 4, "--set", "sampler=random",
        "--device", given.device, "--no-register",
    ]  # fmt: skip
    run_command(harness(*sweep, "--store", whole), **more)
    with open(killed / "said.txt", "w") as said:
        process = subprocess.Popen(
            harness(*sweep, "--store", killed), stdout=said, stderr=said, start_new_session=True,
            env=environment() | more | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        try:
            wait_for(killed / "said.txt", "epoch 2/4", process)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    rows.add("killed after", (killed / "said.txt").read_text().count("epoch "), "epochs")
    run_command(harness(*sweep, "--store", killed), **more)
    found = differences(whole, killed)
    rows.add("the same command again: same bits", yes(not found) if not found else found[0], right=not found)


def wait_for(file: Path, text: str, process: subprocess.Popen[Any]) -> None:
    """Waits until a command has printed a text; raises `RuntimeError` where it has not and never will."""
    ends = time.monotonic() + WAIT_SECONDS
    while text not in file.read_text():
        if process.poll() is not None or time.monotonic() > ends:
            raise RuntimeError(f"the sweep did not print {text!r}: {file.read_text()[-300:]}")
        time.sleep(0.01)


def check_demo(given: Given, rows: Rows) -> None:
    """`sweep --demo`, `reload` and `report`, as in the README."""
    store = Path(tempfile.mkdtemp())
    common = ["--store", store, "--demo"]
    less = ["--trials", 2, "--epochs", 1] if given.quick else []
    seconds, _ = run_command(harness("sweep", DEMO, *common, "--device", given.device, *less))
    rows.add("sweep experiments/vgg_cifar.py --demo", seconds, "s")
    _, best = run_command(harness("best", DEMO, *common, "--json"))
    rows.add("best val_accuracy", json.loads(best)["value"])
    seconds, said = run_command(harness("reload", "best", DEMO, *common, "--device", given.device, "--json"))
    rows.add("reload best: equal", yes(same := json.loads(said)["match"]), right=same)
    seconds, _ = run_command(harness("report", DEMO, *common))
    pages = list((store / "reports").glob("*.html"))
    rows.add("report", seconds, "s", right=bool(pages))


def measure_speedrun(given: Given, rows: Rows) -> None:
    """How long the speedrun takes and how well it ends, on real images; on generated ones only that it runs."""
    store = Path(tempfile.mkdtemp())
    less = ["--epochs", 1, "--set", "batch_size=64"] if given.quick else []
    seconds, _ = run_command(
        harness("train", SPECS / "speedrun.py", "--store", store, "--device", given.device, *less),
        BENCH_IMAGES=str(images_of(given)),
    )
    _, best = run_command(harness("best", SPECS / "speedrun.py", "--store", store, "--json"))
    run = json.loads(best)
    rows.add("epochs" if given.images else "epochs, generated images", seconds_of_epochs(store), "s")
    rows.add("the whole command", seconds, "s")
    rows.add("val_accuracy" if given.images else "val_accuracy, generated images", run["value"])


def seconds_of_epochs(store: Path) -> float:
    """The sum of the seconds of all epochs of a store."""
    with closing(sqlite3.connect(store / "mlflow.db")) as database:
        return float(database.execute("SELECT SUM(value) FROM metrics WHERE key = 'epoch_seconds'").fetchone()[0])
