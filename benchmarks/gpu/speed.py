"""Images a second of one run, against loops written by hand, and against the fastest matrix product of the device."""

import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from common import interleaved, paired_ratio
from loops import LoaderLoop, ResidentLoop, set_free
from overhead import build_run, network, timed
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from gpu.child import Rows
from gpu.data import count_of, images_of
from gpu.running import Given
from harness.training.device import choose_device, choose_precision, choose_threads, make_deterministic

CEILING, WORK, RATE = "ceiling", "work of an image", "images a second"  # what the summary computes shares of


def measure_ceiling(given: Given, rows: Rows) -> None:
    """The best rate of a product of large square matrices, and the work of a training image of VGG-16."""
    device, side = choose_device(given.device), 256 if given.quick else 8192
    precision = choose_precision("auto", device)
    kind = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision, torch.float32)
    rows.add(CEILING, product_rate(device, side, kind) / 1e12, "TFLOP/s")
    rows.add("it is a product of matrices", f"{side} x {side}, {kind}")
    rows.add(WORK, flops_an_image(width_of(given)) / 1e9, "GFLOP")


def measure_rate(given: Given, rows: Rows, *, loop: str, batch_size: int) -> None:
    """Training images a second: of `DataLoader loop`, `bare loop` or `harness`. Its median epoch after the first."""
    device, images = choose_device(given.device), images_of(given)
    os.environ["BENCH_WIDTH"] = str(width_of(given))
    if loop == "harness":
        run = build_run(images, Path(tempfile.mkdtemp()), device, choose_threads(None), batch_size=batch_size)
        results = run.epochs()

        def epoch() -> object:
            return next(results)
    else:
        set_free()
        is_bare = loop == "bare loop"
        model, optimizer = network(device, channels_last=is_bare, width=width_of(given))
        if is_bare:
            epoch = ResidentLoop(
                images, model, optimizer, device=device, precision=choose_precision("auto", device),
                batch_size=batch_size,
            ).epoch  # fmt: skip
        else:
            workers = 0 if given.quick else len(os.sched_getaffinity(0))
            epoch = LoaderLoop(images, model, optimizer, device=device, workers=workers, batch_size=batch_size).epoch
            rows.add("workers of the DataLoader", workers)
    epoch()  # warms up: allocations, choice of kernels, capture, workers
    turn = timed(epoch, device, [])
    seconds = [turn() for _ in range(1 if given.quick else 3 if loop == "DataLoader loop" else 5)]
    rows.add(RATE, count_of(images) / statistics.median(seconds), "images/s")
    if loop == "harness":
        rows.add("the step", run.built.step)
        run.close()


def measure_determinism(given: Given, rows: Rows) -> None:
    """What it costs that cuDNN and torch use only algorithms that repeat: epochs with and without, in turns."""
    device, images, threads = choose_device(given.device), images_of(given), choose_threads(None)
    os.environ["BENCH_WIDTH"] = str(width_of(given))
    turns, runs = {}, []
    for name, choose in {"repeats": lambda: make_deterministic(threads), "free": set_free}.items():
        run = build_run(images, Path(tempfile.mkdtemp()), device, threads, batch_size=512)
        results = run.epochs()

        def epoch(results=results, choose=choose):  # type: ignore[no-untyped-def]
            choose()
            next(results)

        epoch()
        turns[name], runs = timed(epoch, device, []), [*runs, run]
    seconds = interleaved(turns, 1 if given.quick else 5)
    rows.add("an epoch that repeats, batch 512", statistics.median(seconds["repeats"]), "s")
    rows.add("an epoch that need not", statistics.median(seconds["free"]), "s")
    rows.add("what repeating costs", paired_ratio(seconds["repeats"], seconds["free"]), "times")
    for run in runs:
        run.close()


def width_of(given: Given) -> int:
    """The width of VGG-16: the paper's, or one that a CPU can bear."""
    return 8 if given.quick else 64


def product_rate(device: torch.device, side: int, kind: torch.dtype) -> float:
    """The most FLOP/s that a product of two square matrices reached."""
    left, right = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
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
    """Forward and backward pass of one training image, as `torch.utils.flop_counter` counts them."""
    model, _ = network(torch.device("cpu"), channels_last=False, width=width)
    count = 4
    with FlopCounterMode(display=False) as counter:
        loss = cross_entropy(model(torch.randn(count, 3, 32, 32)), torch.zeros(count, dtype=torch.int64))
        loss.backward()  # type: ignore[no-untyped-call]
    return float(counter.get_total_flops() / count)


def wait(device: torch.device) -> None:
    """Waits until the device has done all that was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
