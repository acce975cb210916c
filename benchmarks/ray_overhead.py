"""What Ray costs: the same small sweep with --jobs 2 and with --ray local, and whether the results are the same.

    python benchmarks/ray_overhead.py

Each is a whole `sweep` in a store of its own, on as many one-thread trials at once as `--jobs` says. Trials are drawn
at random by their number, so that every one must have the same params and, to the last bit, the same metrics. Start-up
is counted apart: it lasts until as many runs as jobs are at work and the last of these has ended its first epoch. From
there to the last epoch of all, epochs an hour are counted.
"""

import argparse
import sqlite3
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from common import SPECS, harness, interleaved, paired_ratio, parser, publish, run_command
from images import write_images
from jobs import read

SPEC = SPECS / "images.py"
WAYS: dict[str, list[str]] = {"processes": [], "--ray local": ["--ray", "local"]}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--jobs", type=int, default=2)
    arguments.add_argument("--trials", type=int, default=12)
    arguments.add_argument("--epochs", type=int, default=3)
    arguments.add_argument("--train", type=int, default=2_000, help="training images; a quarter of it validates")
    arguments.add_argument("--repetitions", type=int, default=2)
    given = arguments.parse_args()
    if given.quick:
        given.trials, given.epochs, given.train, given.repetitions = 4, 2, 128, 1
    with tempfile.TemporaryDirectory() as folder:
        measure(given, Path(folder))


def measure(given: argparse.Namespace, folder: Path) -> None:
    images = folder / "images.npz"
    write_images(images, train=given.train, validation=given.train // 4)
    found: list[dict[str, Any]] = []
    measured: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}

    def sweep(way: str) -> float:
        store = Path(tempfile.mkdtemp(dir=folder))
        options = ["--trials", given.trials, "--epochs", given.epochs, "--jobs", given.jobs, "--no-register"]
        options += ["--set", "sampler=random", "--set", "threads=1", *WAYS[way]]
        began = time.time()
        whole, _ = run_command(harness("sweep", SPEC, "--store", store, *options), BENCH_IMAGES=str(images))
        results, _ = read(store)
        found.append(results)
        ready, last, epochs = steady(store, given.jobs)
        pace = (last - ready) / epochs  # seconds an epoch, all jobs together
        measured[way].append({"pace": pace, "start": ready - began, "whole": whole})
        return pace

    paces = interleaved({way: lambda way=way: sweep(way) for way in WAYS}, given.repetitions)
    base = next(iter(WAYS))
    rows = [
        [
            way, 3600 / statistics.median(paces[way]), paired_ratio(paces[way], paces[base]),
            statistics.median(one["start"] for one in measured[way]),
            statistics.median(one["whole"] for one in measured[way]),
            "yes" if all(results == found[0] for results in found) else "NO",
        ]
        for way in WAYS
    ]  # fmt: skip
    columns = ["workers", "epochs/h", "time, times first", "start-up s", "whole process s", "same results"]
    publish("ray_overhead", given, columns, rows)


def steady(store: Path, jobs: int) -> tuple[float, float, int]:
    """When `jobs` runs were at work and the last of them had its first epoch; the last epoch; how many lie between."""
    with closing(sqlite3.connect(store / "mlflow.db")) as database:
        runs = database.execute("SELECT run_uuid, start_time, end_time FROM runs ORDER BY start_time").fetchall()
        query = "SELECT timestamp, run_uuid FROM metrics WHERE key = 'epoch_seconds' ORDER BY timestamp"
        logged = database.execute(query).fetchall()
    full = next(run for run, at, _ in runs if sum(start <= at < end for _, start, end in runs) >= jobs)
    ready = min(timestamp for timestamp, run in logged if run == full)
    last = logged[-1][0]
    return ready / 1000, last / 1000, sum(timestamp > ready for timestamp, _ in logged)


if __name__ == "__main__":
    main()
