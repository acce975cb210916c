"""What tracking costs a run: the epochs of a worker whose driver records them in MLflow, against the same run alone.

    python benchmarks/tracking.py

On: a worker process trains, and the driver in this process writes every epoch into the store (MLflow on SQLite), as
`train` and `sweep` do. Off: the same run, iterated by a loop of two lines in a process that has no store. Both write
the same checkpoints. In turns, each turn with another seed, so that no epoch is known already. The time of an epoch is
that between its result and the one before; the first one of a run is left out. Beside it stands the driver's CPU time
an epoch, which bounds the cost from above, however busy the machine is with other things.
"""

import argparse
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from common import SPECS, interleaved, paired_ratio, parser, publish
from images import write_images
from rich.console import Console

from harness.reporting.screen import Screen
from harness.searching.driver import Driver, Task
from harness.tracking.store import Store
from harness.workers.local import LocalWorkers
from harness.workers.messages import Train

SPEC = SPECS / "images.py"


class Clock(Screen):
    """A screen that notes when each epoch was shown."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, ["lr"])
        self.times: list[float] = []

    def epoch(self, *arguments: Any, **named: Any) -> None:
        self.times.append(time.perf_counter())
        super().epoch(*arguments, **named)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--train", type=int, default=4_000, help="training images; a quarter of it validates")
    arguments.add_argument("--epochs", type=int, default=8, help="of a turn")
    arguments.add_argument("--repetitions", type=int, default=5)
    arguments.add_argument("--device", default="auto")
    given = arguments.parse_args()
    if given.quick:
        given.train, given.epochs, given.repetitions = 128, 2, 1
    with tempfile.TemporaryDirectory() as folder:
        measure(given, Path(folder))


def measure(given: argparse.Namespace, folder: Path) -> None:
    images = folder / "images.npz"
    write_images(images, train=given.train, validation=given.train // 4)
    os.environ["BENCH_IMAGES"] = str(images)
    store = Store(folder / "mlruns", create=True)
    experiment = store.experiment_id("tracking", tags={})
    seeds = iter(range(10**6))
    driver_seconds: list[float] = []

    def request(seed: int, paths: Path) -> Train:
        return Train(
            spec=SPEC, values={**_defaults(), "epochs": given.epochs + 1, "seed": seed}, run_id="0" * 32,
            device=given.device, is_demo=False, paths=paths, budget_bytes=10**9, checkpoints=paths / "checkpoints",
        )  # fmt: skip

    def tracked() -> float:
        workers = LocalWorkers()
        log = store.create_run(experiment, "run", params={"lr": 0.02}, tags={})
        seed = next(seeds)
        task = Task(
            name="run", request=request(seed, folder / f"on-{seed}"), log=log, objective="val_accuracy",
            objective_at="best",
        )  # fmt: skip
        with open(os.devnull, "w") as nowhere:
            clock = Clock(Console(file=nowhere))
            worker = workers.start()
            before = time.process_time()
            Driver(store, workers, clock, idle=[worker]).run(iter([task]), jobs=1)
            driver_seconds.append((time.process_time() - before) / (given.epochs + 1))
            workers.close()
        return _epoch_seconds(clock.times)

    def untracked() -> float:
        seed = next(seeds)
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=run_alone, args=(theirs, request(seed, folder / f"off-{seed}"))
        )
        process.start()
        times: list[float] = ours.recv()
        process.join()
        return _epoch_seconds(times)

    measured = interleaved({"off": untracked, "on": tracked}, given.repetitions)
    rows = [
        [name, 1000 * statistics.median(seconds), 1000 * min(seconds), paired_ratio(seconds, measured["off"])]
        for name, seconds in measured.items()
    ]
    share = statistics.median(driver_seconds) / statistics.median(measured["off"])
    notes = [
        f"the driver's CPU time: {1000 * statistics.median(driver_seconds):.1f} ms an epoch, "
        f"start and end of the run included: {100 * share:.2f}% of an epoch's time, beside the training"
    ]
    columns = ["tracking", "ms an epoch, median", "best", "times off"]
    publish("tracking", given, columns, rows, notes)


def run_alone(connection: Connection, request: Train) -> None:
    """Trains a run without a store or a driver, otherwise as a worker does; sends when its epochs ended."""
    import harness.workers.preload  # noqa: F401
    from harness.machine import keep_memory
    from harness.spec import load_spec
    from harness.training.build import DataCache, build
    from harness.training.device import choose_device, choose_threads, make_deterministic
    from harness.training.run import Walk

    keep_memory()
    make_deterministic(choose_threads(None))
    spec = load_spec(request.spec)
    built = build(spec, request.values, device=choose_device(request.device), cache=DataCache())
    run = Walk(
        built, run_id=request.run_id, paths=request.paths, budget_bytes=request.budget_bytes,
        checkpoints=request.checkpoints,
    )  # fmt: skip
    times = [time.perf_counter() for _ in run.epochs()]
    run.finish()
    run.close()
    connection.send(times)


def _defaults() -> dict[str, Any]:
    from harness.settings import of_a_run
    from harness.spec import load_spec

    return of_a_run(load_spec(SPEC).experiment.defaults())


def _epoch_seconds(times: list[float]) -> float:
    """The median time between two results."""
    return statistics.median(after - before for before, after in itertools.pairwise(times))


if __name__ == "__main__":
    main()
