"""On a GPU: images a second of VGG-16, as a share of what matrix products reach, and against a DataLoader loop.

    python benchmarks/cuda.py                        # needs a CUDA device
    python benchmarks/cuda.py --images FOLDER        # real images: train/ and val/, one folder a class
    python benchmarks/cuda.py --device cpu --toy     # shows that the program works, on any machine

The ceiling is the best rate of a product of large square bfloat16 matrices on the same device. The share is that of the
forward and backward pass as `torch.utils.flop_counter` counts it (convolutions and products alone), a training image,
times images a second. Trials at once are whole sweeps of the same short trials, timed from the first run's start to the
last one's end.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import SPECS, harness, parser, publish, run_command
from images import write_images
from jobs import read
from loops import LoaderLoop, set_free
from overhead import build_run, network
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from harness.training.device import choose_device, choose_threads

SPEC = SPECS / "images.py"


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--device", default="cuda")
    arguments.add_argument("--toy", action="store_true", help="a network and a data set that a CPU can bear")
    arguments.add_argument("--images", type=Path, help="a folder with train/ and val/ and one folder a class in each")
    arguments.add_argument("--jobs", type=int, nargs="+", default=[1, 2, 4, 8])
    arguments.add_argument("--epochs", type=int, default=5, help="timed of a run, and of each trial")
    arguments.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="of the DataLoader")
    given = arguments.parse_args()
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("benchmarks/cuda.py needs a CUDA device, and torch finds none here; see --device cpu --toy.")
    given.width, given.train, given.side = 64, 45_000, 8192
    if given.toy or given.quick:
        given.width, given.train, given.side, given.epochs, given.jobs, given.workers = 8, 128, 256, 1, [2], 0
    if given.quick:
        given.jobs = []  # whole sweeps take longest
    os.environ["BENCH_WIDTH"] = str(given.width)
    with tempfile.TemporaryDirectory() as folder:
        measure(given, Path(folder))


def measure(given: argparse.Namespace, folder: Path) -> None:
    device = choose_device(given.device)
    images = folder / "images.npz"
    write_images(images, given.images, train=given.train, validation=max(16, given.train // 100))
    ceiling, work = matrix_ceiling(device, given.side), flops_an_image(given.width)
    rows: list[list[Any]] = []

    def add(name: str, rate: float) -> None:
        rows.append([name, rate, rate / rows[0][1] if rows else 1.0, rate * work / ceiling])
        print(f"{name}: {rate:,.0f} images/s", flush=True)

    add("DataLoader loop, batch 64, float32", loader_rate(images, device, given))
    for batch_size in (64, 512):
        add(
            f"harness, one run, batch {batch_size}",
            run_rate(images, folder / str(batch_size), device, batch_size, given),
        )
    for jobs in given.jobs:
        add(f"harness, {jobs} trials at once, batch 64", sweep_rate(images, folder / f"jobs-{jobs}", jobs, given))
    notes = [
        f"ceiling: {ceiling / 1e12:.2f} TFLOP/s, the best of products of {given.side:,} x {given.side:,} in bfloat16",
        f"VGG-16 of width {given.width}: {work / 1e9:.3f} GFLOP a training image, forward and backward",
    ]
    publish("cuda", given, [f"on {device}", "images/s", "times DataLoader loop", "share of ceiling"], rows, notes)


def matrix_ceiling(device: torch.device, side: int) -> float:
    """The most FLOP/s that a product of two square bfloat16 matrices reached."""
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = 0.0
    for _ in range(20):
        wait(device)
        started = time.perf_counter()
        for _ in range(10):
            left @ right
        wait(device)
        best = max(best, 10 * 2 * side**3 / (time.perf_counter() - started))
    return best


def flops_an_image(width: int) -> float:
    """Forward and backward pass of one training image."""
    model, _ = network(torch.device("cpu"), channels_last=False, width=width)
    count = 4
    with FlopCounterMode(display=False) as counter:
        loss = cross_entropy(model(torch.randn(count, 3, 32, 32)), torch.zeros(count, dtype=torch.int64))
        loss.backward()  # type: ignore[no-untyped-call]
    return float(counter.get_total_flops() / count)


def run_rate(images: Path, folder: Path, device: torch.device, batch_size: int, given: argparse.Namespace) -> float:
    """Training images a second of one run; its validation of a hundredth as many images is in the time."""
    run = build_run(images, folder, device, choose_threads(None), batch_size=batch_size)
    results = run.epochs()
    next(results)  # warms up: allocations, choice of kernels, capture
    seconds = []
    for _ in range(given.epochs):
        started = time.perf_counter()
        next(results)
        seconds.append(time.perf_counter() - started)
    run.close()
    return float(given.train / statistics.median(seconds))


def loader_rate(images: Path, device: torch.device, given: argparse.Namespace) -> float:
    set_free()
    model, optimizer = network(device, channels_last=False, width=given.width)
    loop = LoaderLoop(images, model, optimizer, device=device, workers=given.workers, batch_size=64)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        loop.epoch()
        wait(device)
        seconds.append(time.perf_counter() - started)
    return float(given.train / min(seconds[1:]))  # in the first one the workers start


def sweep_rate(images: Path, store: Path, jobs: int, given: argparse.Namespace) -> float:
    """Training images a second of all trials together, what the trials need to start included."""
    trials = max(given.jobs)
    run_command(
        harness(
            "sweep", SPEC, "--store", store, "--jobs", jobs, "--trials", trials, "--epochs", given.epochs,
            "--device", given.device, "--no-register",
        ),
        BENCH_IMAGES=str(images),
    )  # fmt: skip
    _, seconds = read(store)
    return float(trials * given.epochs * given.train / seconds)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
