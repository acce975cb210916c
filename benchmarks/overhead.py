"""Images a second of one run, against a bare loop written by hand and against a loop with a DataLoader.

    python benchmarks/overhead.py

All in one process, with the same network, threads, precision and augmentation, in turns of a few epochs each; a turn
ends when all is computed and, for the harness, when its checkpoints are on the disk. The bare loop keeps its images on
the device as the harness does, saves nothing, and need not repeat its bits. An epoch is training and validation; what
comes before the first epoch is counted apart. CPU time is that of all threads of
this process, without the workers of the loader.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import SPECS, interleaved, paired_ratio, parser, publish
from images import write_images
from loops import LoaderLoop, ResidentLoop, set_free
from torch import nn, optim

from harness.models import vgg16
from harness.spec import load_spec
from harness.training.build import DataCache, build
from harness.training.device import choose_device, choose_precision, choose_threads, make_deterministic
from harness.training.run import Walk

LEARNING_RATE, MOMENTUM = 0.02, 0.9


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--device", default="auto")
    arguments.add_argument("--train", type=int, default=4_000, help="training images; a quarter of it validates")
    arguments.add_argument("--epochs", type=int, default=3, help="of a turn")
    arguments.add_argument("--repetitions", type=int, default=9, help="turns of each")
    arguments.add_argument("--threads", type=int, default=choose_threads(None))
    arguments.add_argument("--workers", type=int, default=2, help="of the DataLoader")
    arguments.add_argument("--only", nargs="+", default=[], help="parts of the names of what is measured")
    given = arguments.parse_args()
    if given.quick:
        given.train, given.epochs, given.repetitions, given.workers = 128, 1, 1, 0
    with tempfile.TemporaryDirectory() as folder:
        measure(given, Path(folder))


def measure(given: argparse.Namespace, folder: Path) -> None:
    device = choose_device(given.device)
    images = folder / "images.npz"
    write_images(images, train=given.train, validation=given.train // 4)
    started = time.perf_counter()
    run = build_run(images, folder, device, given.threads)
    built_seconds = time.perf_counter() - started
    results = run.epochs()
    resident = ResidentLoop(
        images, *network(device, channels_last=True), device=device, precision=choose_precision("auto", device),
        batch_size=64,
    )  # fmt: skip
    loader = LoaderLoop(
        images, *network(device, channels_last=False), device=device, workers=given.workers, batch_size=64
    )

    def ours() -> None:
        for _ in range(given.epochs):
            next(results)
        run.saver.flush()

    def by_hand(epoch: Callable[[], Any]) -> None:
        set_free()
        for _ in range(given.epochs):
            epoch()
        make_deterministic(given.threads)

    contestants: dict[str, Callable[[], None]] = {
        "bare loop, resident data": lambda: by_hand(resident.epoch),
        "harness": ours,
        f"DataLoader loop, {given.workers} workers": lambda: by_hand(loader.epoch),
    }
    if given.only:
        contestants = {name: turn for name, turn in contestants.items() if any(part in name for part in given.only)}
    for turn in contestants.values():
        turn()  # allocations, caches and loader workers are not part of an epoch
    cpu: dict[str, list[float]] = {name: [] for name in contestants}
    turns = {name: timed(turn, device, cpu[name]) for name, turn in contestants.items()}
    measured = interleaved(turns, given.repetitions)
    run.close()
    base, base_cpu = next(iter(measured.values())), next(iter(cpu.values()))
    rows = [
        [
            name, given.train * given.epochs / statistics.median(seconds), given.train * given.epochs / min(seconds),
            paired_ratio(seconds, base), min(seconds) / min(base), paired_ratio(cpu[name], base_cpu),
        ]
        for name, seconds in measured.items()
    ]  # fmt: skip
    notes = [f"{device}, {given.threads} threads; before its first epoch the harness takes {built_seconds:.2f} s"]
    columns = ["one run", "images/s, median", "best", "time to first, paired median", "minima", "CPU time to first"]
    publish("overhead", given, columns, rows, notes)


def build_run(
    images: Path, folder: Path, device: torch.device, threads: int, cache: DataCache | None = None, **more: Any
) -> Walk:
    """A run of the spec as a worker builds it; `more` are values of settings. Runs with one `cache` share the data."""
    os.environ["BENCH_IMAGES"] = str(images)
    make_deterministic(threads)
    spec = load_spec(SPECS / "images.py")
    values = spec.experiment.defaults() | {"epochs": 10_000, "threads": threads, "lr": LEARNING_RATE} | more
    built = build(spec, values, device=device, cache=cache or DataCache())
    return Walk(built, run_id="1" * 32, paths=folder / "paths", budget_bytes=10**9, checkpoints=folder / "checkpoints")


def network(device: torch.device, *, channels_last: bool, width: int = 8) -> tuple[nn.Module, optim.Optimizer]:
    model = vgg16(classes=10, width=width).to(device)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    return model, optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=5e-4)


def timed(turn: Callable[[], None], device: torch.device, cpu: list[float]) -> Callable[[], float]:
    def seconds() -> float:
        started, cpu_started = time.perf_counter(), time.process_time()
        turn()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        cpu.append(time.process_time() - cpu_started)
        return time.perf_counter() - started

    return seconds


if __name__ == "__main__":
    main()
