"""How many workers one driver can serve: a simulation with 1,000 workers that only send messages, as small trials do.

    python benchmarks/workers.py                # epochs of 20, 10, 7, 5 and 2 seconds
    python benchmarks/workers.py --profile      # also prints where the driver's time goes

Driver, study with its journal, MLflow store and live screen are the real ones. The workers are played by one process,
which has a pipe for each of them, as processes of this machine would, takes the real requests from it and sends the
real messages, each when it is due. What is missing is the training, and a network. The first trial of each worker has a
random length, so that trials end and start evenly.

A row is a length of epochs, held for `--seconds`; measured are the last two thirds of it. Told are the messages that
the workers sent in that time, taken those that the driver took in, waiting those in between at the end; `lag` is how
long the taken ones had waited, the median and the longest. CPU is in percent of a core.
"""

import argparse
import cProfile
import heapq
import pstats
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import psutil
from common import SPECS, parser, publish
from growth import made_up_plan, made_up_run, prepared_run
from rich.console import Console

from harness.reporting.live import LiveScreen
from harness.searching.driver import Driver
from harness.searching.limits import Limits
from harness.searching.plan import Options
from harness.searching.session import SweepSession
from harness.workers.messages import PreflightReport, Prepared, Train

FORK = get_context("fork")
WIDTH, HEIGHT = 120, 40  # of the terminal


class Over(Exception):
    """All rows are measured."""


class Crowd:
    """Workers that are played by another process, and the rows that they are measured in."""

    def __init__(self, count: int, paces: list[float], seconds: float, prepared: Prepared) -> None:
        pairs = [FORK.Pipe() for _ in range(count)]
        self._connections = {number: ours for number, (ours, _) in enumerate(pairs)}
        self._control, control = FORK.Pipe()
        self._told = FORK.Value("Q", 0)
        theirs = {number: connection for number, (_, connection) in enumerate(pairs)}
        self._player = FORK.Process(target=play, args=(theirs, control, self._told, prepared), daemon=True)
        self._player.start()
        self._numbers = iter(range(count))
        self._busy: set[int] = set()
        self._paces, self._seconds, self._ends = iter(paces), seconds, 0.0
        self._process = psutil.Process()
        self._pace: float | None = None
        self._before: dict[str, float] | None = None
        self._taken = self._rounds = 0
        self._lags: list[float] = []
        self.rows: list[list[Any]] = []
        self.start_seconds: float | None = None
        self._began = time.monotonic()

    def start(self) -> int:
        return next(self._numbers)

    def send(self, worker: int, message: Any) -> None:
        assert isinstance(message, Train)
        self._connections[worker].send(message)
        self._busy.add(worker)

    def receive(self, timeout_seconds: float | None) -> list[tuple[int, Any]]:
        """Everything that was said since, as from processes of this machine; begins and ends rows."""
        if len(self._busy) == len(self._connections):
            self._turn()
        by_connection = {connection: number for number, connection in self._connections.items()}
        heard = []
        for connection in wait(list(by_connection), timeout_seconds):
            while True:
                told_at, message = connection.recv()  # type: ignore[union-attr]
                self._lags.append(time.monotonic() - told_at)
                heard.append((by_connection[connection], message))  # type: ignore[index]
                if not connection.poll():  # type: ignore[union-attr]
                    break
        self._taken += len(heard)
        self._rounds += 1
        return heard

    def fit(self, report: PreflightReport) -> int:
        return len(self._connections)

    def has_room(self) -> bool:
        return True

    def place(self, worker: int) -> None:
        return None

    def stop(self, worker: int) -> None:
        raise AssertionError("no worker is to be replaced")

    def kill_all(self) -> None:
        self._player.kill()

    def close(self) -> None:
        self.kill_all()

    def _turn(self) -> None:
        """Ends a row and begins the next, where it is time to; raises `Over` after the last."""
        now = self._count()
        if self._pace is not None and self._before is None and now["time"] >= self._ends - self._seconds * 2 / 3:
            self._before, self._rounds = now, 0
            self._ends = max(self._ends, now["time"] + self._seconds * 2 / 3)  # a round may be longer than a row
            self._lags.clear()
        if now["time"] < self._ends:
            return
        if self._pace is None:
            self.start_seconds = now["time"] - self._began
        else:
            assert self._before is not None
            took = {name: value - self._before[name] for name, value in now.items()}
            seconds = took["time"]
            self.rows.append(
                [
                    f"{self._pace:g} s", took["told"] / seconds, took["taken"] / seconds, now["told"] - now["taken"],
                    statistics.median(self._lags) if self._lags else None, max(self._lags, default=None),
                    self._rounds / seconds, 100 * took["cpu"] / seconds, self._process.memory_info().rss / 1e6,
                ]
            )  # fmt: skip
        self._pace = next(self._paces, None)
        if self._pace is None:
            raise Over
        self._control.send(self._pace)
        self._before = None
        self._ends = now["time"] + self._seconds

    def _count(self) -> dict[str, float]:
        return {
            "time": time.monotonic(), "cpu": time.process_time(), "told": self._told.value, "taken": self._taken
        }  # fmt: skip


def play(connections: dict[int, Connection], control: Connection, told: Any, prepared: Prepared) -> None:
    """Answers the requests of all workers: a run is prepared at once, and then has an epoch whenever it is due."""
    numbers = {connection: number for number, connection in connections.items()}
    runs: dict[int, Iterator[Any]] = {}
    due: list[tuple[float, int]] = []
    pace: float | None = None
    chance = random.Random(1)
    new = set(connections)

    def tell(number: int, message: Any) -> None:
        connections[number].send((time.monotonic(), message))
        told.value += 1

    while True:
        left = max(0.0, due[0][0] - time.monotonic()) if due else None
        for handle in wait([*connections.values(), control] if not due or left else [], left):
            if handle is control:
                pace = control.recv()
                due = [(time.monotonic() + chance.random() * pace, number) for number in runs]
                heapq.heapify(due)
                continue
            number = numbers[handle]  # type: ignore[index]
            runs[number] = messages(handle.recv(), prepared, chance if number in new else None)  # type: ignore[union-attr]
            new.discard(number)
            tell(number, next(runs[number]))
            if pace is not None:
                heapq.heappush(due, (time.monotonic() + pace, number))
        while due and due[0][0] <= time.monotonic():
            at, number = heapq.heappop(due)
            message, *done = next(runs[number])
            tell(number, message)
            if done:
                tell(number, *done)
                del runs[number]
            else:
                heapq.heappush(due, (at + pace * chance.uniform(0.9, 1.1), number))


def messages(request: Train, prepared: Prepared, chance: random.Random | None) -> Iterator[Any]:
    """A run: what comes first, then each epoch, the last one together with the end of the run."""
    first, *epochs, done = made_up_run(request, prepared)
    if chance is not None:
        del epochs[chance.randint(1, len(epochs)) :]
    yield first
    yield from ([epoch] for epoch in epochs[:-1])
    yield [epochs[-1], done]


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--workers", type=int, default=1000)
    arguments.add_argument("--paces", type=float, nargs="+", default=[20, 10, 7, 5, 2], metavar="SECONDS")
    arguments.add_argument("--seconds", type=float, default=24, help="of a row")
    arguments.add_argument("--epochs", type=int, default=40, help="of a trial")
    arguments.add_argument("--spec", type=Path, default=SPECS / "digits.py")
    arguments.add_argument("--profile", action="store_true")
    given = arguments.parse_args()
    if given.quick:
        given.workers, given.paces, given.seconds, given.epochs = 20, [1, 0.5], 1, 3
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as folder:
        measure(given, Path(folder) / "mlruns")


def measure(given: argparse.Namespace, store: Path) -> None:
    trials = 10**9  # the rows end first
    options = Options(spec=given.spec, store=store, trials=trials, epochs=given.epochs, path_budget_bytes=0)
    profile = cProfile.Profile()
    with open("/dev/null", "w") as nowhere:
        console = Console(file=nowhere, force_terminal=True, width=WIDTH, height=HEIGHT)
        screen = LiveScreen(console, ["lr"], trials=trials, train_images=1000, maximize=True)
        session = SweepSession(options, made_up_plan(options), Limits(trials=trials), screen)
        workers = Crowd(given.workers, given.paces, given.seconds, prepared_run(given.spec))
        driver = Driver(session.store, workers, screen)
        try:
            if given.profile:
                profile.enable()
            driver.run(session.tasks(), jobs=given.workers)
        except Over:
            profile.disable()
        finally:
            workers.kill_all()
            screen.close()
    columns = ["epochs of", "told/s", "taken/s", "waiting", "lag s", "worst", "rounds/s", "CPU %", "memory MB"]
    notes = [f"{given.workers:,} workers had their first trial after {workers.start_seconds:.1f} s"]
    publish("workers", given, columns, workers.rows, notes)
    if given.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(30)
        pstats.Stats(profile).sort_stats("cumulative").print_stats(70)


if __name__ == "__main__":
    main()
