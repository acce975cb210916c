"""Several trials on one GPU: processes (also with NVIDIA's MPS) or streams; a search with and without the tree."""

import hashlib
import itertools
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from common import SPECS, harness, run_command
from jobs import read
from overhead import LEARNING_RATE, build_run

from gpu.child import Rows
from gpu.data import count_of, images_of
from gpu.running import Given
from gpu.speed import RATE, wait
from harness.training.data_cache import DataCache
from harness.training.device import choose_device, choose_threads
from harness.training.run import Walk

MPS = "nvidia-cuda-mps-control"
TRIALS = 4
NUMBERS = "digest of all numbers"
TIMES = "times the throughput of one after the other"


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


def measure_streams(given: Given, rows: Rows, *, jobs: int, width: int) -> None:
    """Images a second of runs that one process trains at once, each on a stream of its own, over one copy of the data.

    The base is the same runs one after the other in this process. A run must give the same numbers in both.
    """
    device, images, epochs = choose_device(given.device), images_of(given), 1 if given.quick else 3
    os.environ["BENCH_WIDTH"] = str(min(width, 8) if given.quick else width)
    cache = DataCache()

    def begin() -> list[StreamRun]:
        rates = [LEARNING_RATE / (number + 1) for number in range(jobs)]
        runs = [
            StreamRun(build_run(images, Path(tempfile.mkdtemp()), device, choose_threads(None), cache, lr=r))
            for r in rates
        ]
        wait(device)
        for run in runs:
            run.train(1)  # captures its graph
        wait(device)
        return runs

    def timed_end(runs: list[StreamRun], train_all: Callable[..., Any]) -> tuple[float, list[Any]]:
        started = time.perf_counter()
        found = list(train_all(lambda run: run.train(epochs), runs))
        wait(device)
        seconds = time.perf_counter() - started
        for run in runs:
            run.walk.close()
        return seconds, found

    with ThreadPoolExecutor(jobs) as threads:
        apart, alone = timed_end(begin(), map)
        together, beside = timed_end(begin(), threads.map)
    rows.add(RATE, jobs * epochs * count_of(images) / together, "images/s")
    rows.add(TIMES, apart / together, "times")
    rows.add("the numbers are those of the runs one after the other", alone == beside, right=alone == beside)


class StreamRun:
    """A run that has a stream of its own on the device."""

    def __init__(self, walk: Walk) -> None:
        self.walk, self._results = walk, walk.epochs()
        device = walk.built.device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def train(self, epochs: int) -> list[dict[str, float]]:
        """The metrics of its next epochs."""
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            return [result.metrics for result in itertools.islice(self._results, epochs)]


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
