"""Several trials on one GPU, with and without NVIDIA's MPS; a search with and without the tree of epochs."""

import hashlib
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common import SPECS, harness, run_command
from jobs import read

from gpu.child import Rows
from gpu.data import count_of, images_of
from gpu.running import Given
from gpu.speed import RATE

MPS = "nvidia-cuda-mps-control"
TRIALS = 4
NUMBERS = "digest of all numbers"


def measure_jobs(given: Given, rows: Rows, *, jobs: int, width: int, mps: bool = False) -> None:
    """Training images a second of four trials together, from the first run's start to the last one's end."""
    images, store, epochs = images_of(given), Path(tempfile.mkdtemp()), 1 if given.quick else 5
    width = min(width, 8) if given.quick else width
    command = harness(
        "sweep", SPECS / "images.py", "--store", store, "--jobs", jobs, "--trials", TRIALS, "--epochs", epochs,
        "--set", "sampler=random", "--device", given.device, "--no-register",
    )  # fmt: skip
    with serving_mps() if mps else no_mps() as environment:
        run_command(command, BENCH_IMAGES=str(images), BENCH_WIDTH=str(width), **environment)
        if mps:
            log = Path(environment["CUDA_MPS_LOG_DIRECTORY"], "control.log").read_text()
            rows.add("clients that MPS had", clients := log.count("NEW CLIENT"), right=clients > 0)
    numbers, seconds = read(store)
    rows.add(RATE, TRIALS * epochs * count_of(images) / seconds, "images/s")
    rows.add(NUMBERS, hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()[:12])


def measure_search(given: Given, rows: Rows, *, tree: bool) -> None:
    """A sweep of 20 trials: with the tree of epochs, or by TPE, each trial from its first epoch on."""
    store, trials = Path(tempfile.mkdtemp()), 4 if given.quick else 20
    options = ["--set", "sampler=tree"] if tree else ["--set", "sampler=tpe", "--path-budget", "0"]
    less = ["--epochs", 3] if given.quick else []
    seconds, said = run_command(
        harness(
            "sweep", SPECS / "tree.py", "--store", store, "--trials", trials, "--device", given.device,
            "--no-register", *options, *less,
        ),
        BENCH_IMAGES=str(images_of(given)), BENCH_WIDTH="4" if given.quick else "64",
    )  # fmt: skip
    rows.add("the whole command", seconds, "s")
    found = re.search(r"epochs: ([\d,]+) asked, ([\d,]+) trained", said)
    for what, number in zip(("epochs asked", "epochs trained"), found.groups() if found else (), strict=False):
        rows.add(what, int(number.replace(",", "")))
    _, best = run_command(harness("best", SPECS / "tree.py", "--store", store, "--json"))
    rows.add("best val_accuracy" + ("" if given.images else ", generated images"), json.loads(best)["value"])


@contextmanager
def no_mps() -> Iterator[dict[str, str]]:
    yield {}


@contextmanager
def serving_mps() -> Iterator[dict[str, str]]:
    """Inside the block NVIDIA's MPS serves this user; gives the variables that its clients need.

    No setting of the GPU is changed. An MPS that runs already is another one: its folders are elsewhere.
    """
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # a socket's path must be short
        variables = {"CUDA_MPS_PIPE_DIRECTORY": f"{folder}/pipe", "CUDA_MPS_LOG_DIRECTORY": f"{folder}/log"}
        for path in variables.values():
            os.mkdir(path)
        subprocess.run([MPS, "-d"], check=True, env=os.environ | variables, timeout=30)
        try:
            yield variables
        finally:
            subprocess.run([MPS], input="quit\n", text=True, check=False, env=os.environ | variables, timeout=60)
