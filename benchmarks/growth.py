"""What a trial costs the driver as a study grows: the real journal, study, driver and MLflow store; no training.

    python benchmarks/growth.py                  # 10,000 trials
    python benchmarks/growth.py --trials 1000    # fewer
    python benchmarks/growth.py --profile        # also prints where the time goes

The workers are stand-ins that answer at once with made-up metrics, so all that is left is what the driver does: asking
the sampler, Optuna's journal, MLflow's database, small artifact files. Times of a part exclude the parts below it.
Prints milliseconds a trial by tenths of the study, the process's memory, and what `runs` and `best` take at the end.
"""

import argparse
import cProfile
import itertools
import math
import pstats
import random
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from common import SPECS, harness, parser, publish, run_command
from mlflow import MlflowClient
from optuna.storages.journal import JournalFileBackend
from rich.console import Console

from harness.reporting.screen import Screen
from harness.searching import requests
from harness.searching.driver import Driver
from harness.searching.limits import Limits
from harness.searching.plan import Options, Plan
from harness.searching.session import SweepSession
from harness.searching.study import OpenTrial, Study
from harness.searching.task import Task
from harness.spec import load_spec
from harness.tracking.store import RunLog
from harness.training.results import EpochResult, Proof
from harness.workers.messages import Done, PreflightReport, Prepared, Train

PARTS: dict[str, list[tuple[Any, str]]] = {
    "ask": [(Study, "ask")],
    "report": [(OpenTrial, "report")],
    "tell": [(OpenTrial, "end")],
    "journal": [(JournalFileBackend, "append_logs"), (JournalFileBackend, "read_logs")],
    "mlflow": [(MlflowClient, name) for name in ("create_run", "log_batch", "log_inputs", "set_terminated", "get_run")],
    "files": [(RunLog, "write_text")],
    "git": [(requests, "git_tags")],
}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Parts:
    """Seconds spent in each part, less what the parts called from it took."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.seconds, self._clock = dict.fromkeys(PARTS, 0.0), clock
        self._below: list[float] = []
        for name, places in PARTS.items():
            for owner, attribute in places:
                setattr(owner, attribute, self._timed(name, getattr(owner, attribute)))

    def now(self) -> float:
        return self._clock()

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            self._below.append(0.0)
            started = self._clock()
            try:
                return function(*arguments, **named)
            finally:
                took = self._clock() - started
                self.seconds[name] += took - self._below.pop()
                if self._below:
                    self._below[-1] += took

        return timed


class Answering:
    """Workers that train nothing: each answers the next message of a made-up run whenever it is listened to."""

    def __init__(self, prepared: Prepared, made_up: Callable[[Train, Prepared], Iterator[Any]] | None = None) -> None:
        self._prepared, self._made_up, self._next = prepared, made_up or made_up_run, 0
        self._waiting: dict[int, deque[Any]] = {}

    def start(self) -> int:
        self._next += 1
        self._waiting[self._next] = deque()
        return self._next

    def send(self, worker: int, message: Any) -> None:
        assert isinstance(message, Train) and not message.awaits_verdict
        self._waiting[worker].extend(self._made_up(message, self._prepared))

    def receive(self, timeout_seconds: float | None) -> Sequence[tuple[int, Any]]:
        """One message a worker: an epoch is written when it ends, not with the next one."""
        return [(worker, messages.popleft()) for worker, messages in self._waiting.items() if messages]

    def fit(self, report: PreflightReport) -> int:
        return 2

    def has_room(self) -> bool:
        return True

    def place(self, worker: int) -> None:
        return None

    def stop(self, worker: int) -> None:
        del self._waiting[worker]

    def kill_all(self) -> None:
        self._waiting.clear()

    def close(self) -> None:
        self._waiting.clear()


def made_up_run(request: Train, prepared: Prepared) -> Iterator[Any]:
    """A run whose accuracy depends on its values, so that the sampler has something to learn."""
    values, chance = request.values, random.Random(request.run_id)
    height = 0.9 - 0.1 * (math.log10(values["lr"]) + 2) ** 2 - abs(values["momentum"] - 0.9)
    yield prepared
    best = (0, -1.0)
    for epoch in range(values["epochs"]):
        accuracy = height * (1 - 0.5 ** (epoch + 1)) + chance.gauss(0, 0.01)
        best = max(best, (epoch, accuracy), key=lambda pair: pair[1])
        metrics = {
            "train_loss": 1 - accuracy, "train_accuracy": accuracy,
            "val_loss": 1.1 - accuracy, "val_accuracy": accuracy,
        }  # fmt: skip
        yield EpochResult(
            epoch=epoch, metrics=metrics, learning_rates={"lr": values["lr"]},
            epoch_seconds=1.0, reused=False, trained_by=request.run_id, best_epoch=best[0], best_value=best[1],
            is_finite=True,
        )  # fmt: skip
    yield Done(epochs=values["epochs"], reused_epochs=0, is_diverged=False, peak_memory_bytes=None)


def made_up_plan(options: Options) -> Plan:
    """The plan of a spec without its preflight: nothing is going to be trained."""
    spec = load_spec(options.spec)
    description = spec.describe()
    report = PreflightReport(
        epoch_seconds=1, state_bytes=10**6, device="cpu", precision="float32", threads=1,
        recipe={"rest": {"data": "none"}}, recipe_digest="0" * 16, code={}, model="none", parameters=0, data="none",
        train_images=0, corner={}, proof=Proof(),
    )  # fmt: skip
    fixed = description.settings | {"epochs": options.epochs, "trials": options.trials, "sampler": "tpe"}
    return Plan(
        options=options, description=description, fixed=fixed, searched=description.hyperparameters, report=report
    )


def prepared_run(spec: Path) -> Prepared:
    versions = {"torch": "0", "harness": "0", "python": "0"}
    return Prepared(
        recipe_digest="0" * 16, base_digest="0" * 16, recipe={}, summary="a network\n" * 40, data_name="none",
        data_digest="0" * 64, data_description={"train": 0}, versions=versions, sources={spec.name: spec.read_text()},
        device="cpu", precision="float32", step="eager", threads=1, private=None,
    )  # fmt: skip


def watched(
    tasks: Iterator[Task | None], snapshots: list[dict[str, float]], parts: Parts, window: int
) -> Iterator[Task | None]:
    """The same tasks; before the first one, and after each `window` of them, notes time and memory."""
    process = psutil.Process()
    number = 0
    for task in tasks:
        if task is not None:  # else the next one depends on one that runs
            if number % window == 0:
                snapshots.append(_snapshot(parts, process))
            number += 1
        yield task
    snapshots.append(_snapshot(parts, process))


def _snapshot(parts: Parts, process: psutil.Process) -> dict[str, float]:
    return {"all": parts.now(), **parts.seconds, "memory": process.memory_info().rss / 1e6}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--trials", type=int, default=10_000)
    arguments.add_argument("--epochs", type=int, default=5, help="reported and logged by each trial")
    arguments.add_argument("--jobs", type=int, default=2)
    arguments.add_argument("--spec", type=Path, default=SPECS / "images.py")
    arguments.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: where others use the machine too")
    arguments.add_argument("--profile", action="store_true")
    given = arguments.parse_args()
    if given.quick:
        given.trials, given.epochs = 20, 2
    with tempfile.TemporaryDirectory() as folder:
        measure(given, Path(folder) / "mlruns")


def measure(given: argparse.Namespace, store: Path) -> None:
    options = Options(spec=given.spec, store=store, trials=given.trials, epochs=given.epochs, path_budget_bytes=0)
    snapshots: list[dict[str, float]] = []
    with open("/dev/null", "w") as nowhere:
        screen = Screen(Console(file=nowhere), ["lr"])
        parts = Parts(CLOCKS[given.clock])
        session = SweepSession(options, made_up_plan(options), Limits(trials=given.trials), screen)
        driver = Driver(session.store, Answering(prepared_run(given.spec)), screen)
        window = max(1, given.trials // 10)
        profile = cProfile.Profile()
        if given.profile:
            profile.enable()
        driver.run(watched(session.tasks(), snapshots, parts, window), jobs=given.jobs)
        profile.disable()
    columns = ["trials", "ms a trial", *PARTS, "rest", "memory grown MB"]
    rows: list[list[Any]] = []
    for number, (before, after) in enumerate(itertools.pairwise(snapshots)):
        count = min(window, given.trials - number * window)
        spent = {name: 1000 * (after[name] - before[name]) / count for name in ("all", *PARTS)}
        rest = spent["all"] - sum(spent[name] for name in PARTS)
        name = f"{number * window + 1:,} to {number * window + count:,}"
        rows.append(
            [name, spent["all"], *(spent[part] for part in PARTS), rest, after["memory"] - snapshots[0]["memory"]]
        )
    first, last = rows[0], rows[-1]
    notes = [f"the last {window:,} trials cost {last[1] / first[1]:.2f} times the first {window:,}"]
    for command in ("best",) if given.quick else ("runs", "best"):
        seconds, _ = run_command(harness(command, given.spec, "--store", store))
        notes.append(f"`{command}`, whole process, at {given.trials:,} trials: {seconds:.2f} s")
    size = {name: (store / name).stat().st_size / 1e6 for name in ("mlflow.db", "optuna.log")}
    notes.append("on disk: " + ", ".join(f"{name} {megabytes:.1f} MB" for name, megabytes in size.items()))
    publish("growth", given, columns, rows, notes)
    if given.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
        pstats.Stats(profile).sort_stats("cumulative").print_stats(60)


if __name__ == "__main__":
    main()
