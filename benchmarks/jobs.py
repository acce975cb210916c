"""Trials an hour at --jobs 1, 2, 4 and 8 on a small network, and whether the results are the same.

    python benchmarks/jobs.py

Each is a whole `sweep` in a store of its own. Trials are drawn at random by their number, because what TPE suggests
depends on which trials have ended; then every trial must have the same params and, to the last bit, the same metrics
whatever ran beside it. Time is that from the first run's start to the last one's end, and that of the whole process.
"""

import argparse
import sqlite3
import statistics
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from common import SPECS, harness, interleaved, paired_ratio, parser, publish, run_command
from images import write_images

SPEC = SPECS / "images.py"
TIMES = ("epoch_seconds", "system/")  # metrics that are not results


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--jobs", type=int, nargs="+", default=[1, 2, 4, 8])
    arguments.add_argument("--trials", type=int, default=16)
    arguments.add_argument("--epochs", type=int, default=3)
    arguments.add_argument("--train", type=int, default=2_000, help="training images; a quarter of it validates")
    arguments.add_argument("--repetitions", type=int, default=2)
    arguments.add_argument("--device", default="auto")
    given = arguments.parse_args()
    if given.quick:
        given.jobs, given.trials, given.epochs, given.train, given.repetitions = [1, 2], 2, 1, 128, 1
    with tempfile.TemporaryDirectory() as folder:
        measure(given, Path(folder))


def measure(given: argparse.Namespace, folder: Path) -> None:
    images = folder / "images.npz"
    write_images(images, train=given.train, validation=given.train // 4)
    found: dict[int, dict[str, Any]] = {}
    whole: dict[str, list[float]] = {str(jobs): [] for jobs in given.jobs}

    def sweep(jobs: int) -> float:
        store = tempfile.mkdtemp(dir=folder)
        options = ["--trials", given.trials, "--epochs", given.epochs, "--set", "sampler=random", "--no-register"]
        command = harness("sweep", SPEC, "--store", store, "--jobs", jobs, "--device", given.device, *options)
        seconds, _ = run_command(command, BENCH_IMAGES=str(images))
        whole[str(jobs)].append(seconds)
        results, seconds = read(Path(store))
        if jobs in found and found[jobs] != results:
            found[jobs] = {}  # not even equal to itself
        found[jobs] = results
        return seconds

    contestants = {str(jobs): lambda jobs=jobs: sweep(jobs) for jobs in given.jobs}
    measured = interleaved(contestants, given.repetitions)
    first = given.jobs[0]
    rows = [
        [
            name, 3600 * given.trials / statistics.median(seconds), 1 / paired_ratio(seconds, measured[str(first)]),
            statistics.median(whole[name]), 1 / paired_ratio(whole[name], whole[str(first)]),
            "yes" if found[int(name)] == found[first] else "NO",
        ]
        for name, seconds in measured.items()
    ]  # fmt: skip
    columns = ["jobs", "trials/h", "times first", "whole process s", "times first", "same results"]
    publish("jobs", given, columns, rows)


def read(store: Path) -> tuple[dict[str, Any], float]:
    """Params and metrics of every trial by name, and the seconds from the first start to the last end."""
    # Asked in SQL: importing MLflow takes longer than all else here.
    with closing(sqlite3.connect(store / "mlflow.db")) as database:
        runs = database.execute("SELECT run_uuid, name, start_time, end_time FROM runs").fetchall()
        params = database.execute("SELECT run_uuid, key, value FROM params ORDER BY key").fetchall()
        metrics = database.execute("SELECT run_uuid, key, value FROM latest_metrics ORDER BY key").fetchall()
    results = {
        name: [
            (key, value) for owner, key, value in (*params, *metrics) if owner == run_id and not key.startswith(TIMES)
        ]
        for run_id, name, _, _ in runs
    }
    return results, (max(run[3] for run in runs) - min(run[2] for run in runs)) / 1000


def starts(store: Path) -> list[float]:
    """When each run of a store began, in seconds since 1970, in order."""
    with closing(sqlite3.connect(store / "mlflow.db")) as database:
        return [start / 1000 for (start,) in database.execute("SELECT start_time FROM runs ORDER BY start_time")]


if __name__ == "__main__":
    main()
