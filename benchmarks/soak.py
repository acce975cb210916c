"""A sweep through faults at random, again and again: in the end its store is what it is where nothing goes wrong.

    python benchmarks/soak.py --minutes 30

Each round sweeps one small spec, first undisturbed, and then with a fault every few seconds: SIGKILL of everything or
of one worker, SIGTERM, SIGHUP, a file system without room, a part of the store without permissions (as root:
`chattr +i`), too few open files, and, in every second round, a tracking server that is away, busy or loses its
answers. Two rounds of the default search, one trial at a time, take turns with two of a grid, two at a time. After
each fault it is repaired and the same command is given again. Every command must end by the signal, or with a sentence.
At the end of a round runs, metrics, trials and checkpoints are compared, bit for bit.
Exit code 1: they differ, or a command hung or ended with a traceback.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from common import parser, publish

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / part) for part in ("", "searching", "tracking")]

from comparing import assert_same_checkpoints, read_store, read_study  # noqa: E402
from running import Finished, Started, Zygote  # noqa: E402
from serving import Gate, Server  # noqa: E402
from small import SPEC, slow  # noqa: E402

LONGEST = 5.0  # seconds that a command runs before a fault meets it
LIMIT = 180.0  # seconds in which a command ends after a fault; longer is a hang
PACE = "3"
SEARCHES: tuple[tuple[object, ...], ...] = (
    ("--jobs", 1),
    ("--jobs", 2, "--set", "sampler=grid"),  # other searches look at what has ended: with two at once that is chance
)
ROOM = 128  # MB of the file system that a store lies on, where this user may mount one
Repair = Callable[[], object]


class Soak:
    """Faults, by name; each gives what undoes it."""

    def __init__(self, folder: Path, chosen: random.Random) -> None:
        self.folder, self._random = folder, chosen
        self.counts: Counter[str] = Counter()
        self.lines: list[str] = []
        self.zygote = Zygote(folder)
        self.is_mounted = False
        self.gate: Gate | None = None

    def strike(self, store: Path, started: Started) -> tuple[str, Repair]:
        """Lets one fault happen to a command that runs; its name, and its repair."""
        faults = [self._kill, self._kill_worker, self._terminate, self._hang_up, self._few_files, self._no_permission]
        faults += [self._no_room] if self.is_mounted else []
        faults += [self._server_away, self._server_late] * 2 if self.gate is not None else []
        fault = self._random.choice(faults)
        name = fault.__name__.strip("_").replace("_", " ")
        self.counts[name] += 1
        return name, fault(store, started)

    def _kill(self, store: Path, started: Started) -> Repair:
        _signal_group(started.pid, signal.SIGKILL)
        return _nothing

    def _kill_worker(self, store: Path, started: Started) -> Repair:
        for child in _children(started.pid)[:1]:
            _signal(child, signal.SIGKILL)
        time.sleep(1)
        _signal_group(started.pid, signal.SIGKILL)  # it would go on: the next command does
        return _nothing

    def _terminate(self, store: Path, started: Started) -> Repair:
        _signal(started.pid, signal.SIGTERM)
        return _nothing

    def _hang_up(self, store: Path, started: Started) -> Repair:
        _signal(started.pid, signal.SIGHUP)
        return _nothing

    def _few_files(self, store: Path, started: Started) -> Repair:
        for pid in (started.pid, *_children(started.pid)):
            subprocess.run(["prlimit", f"--pid={pid}", "--nofile=8:8"], capture_output=True, check=False)
        return _nothing

    def _no_permission(self, store: Path, started: Started) -> Repair:
        parts = [
            path for path in (store, store / "mlflow.db", store / "paths", *store.glob("paths/*")) if path.exists()
        ]
        part = self._random.choice(parts) if parts else self.folder
        if os.geteuid() == 0:
            subprocess.run(["chattr", "+i", str(part)], check=False)
            return lambda: subprocess.run(["chattr", "-i", str(part)], check=False)
        mode = part.stat().st_mode
        part.chmod(0o500 if part.is_dir() else 0o400)
        return lambda: part.chmod(mode)

    def _no_room(self, store: Path, started: Started) -> Repair:
        filler = store.parent / "filler"
        with suppress(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 2**16)
        return lambda: filler.unlink(missing_ok=True)

    def _server_away(self, store: Path, started: Started) -> Repair:
        return self._moody(late=False)

    def _server_late(self, store: Path, started: Started) -> Repair:
        return self._moody(late=True)

    def _moody(self, *, late: bool) -> Repair:
        assert self.gate is not None
        self.gate.mood, self.gate.is_late = self._random.choice((429, 500, 503)), late
        time.sleep(self._random.uniform(0.5, 3))
        self.gate.mood, self.gate.is_late = None, False
        return _nothing

    def wait(self, started: Started, name: str) -> Finished:
        """The end of a command; one that does not come is killed and told."""
        ends = time.monotonic() + LIMIT
        while _is_alive(started.pid) and time.monotonic() < ends:
            time.sleep(0.05)
        if _is_alive(started.pid):
            self.lines.append(f"hang after {name}")
            _signal_group(started.pid, signal.SIGKILL)
        done = started.wait()
        if "Traceback" in done.err:
            self.lines.append(f"traceback after {name}: {done.err[-1500:]}")
        return done


def round_of(soak: Soak, number: int, ends: float, trials: int) -> None:
    """One sweep through faults until it is done or the time is up, then to its end; compared with one undisturbed."""
    folder = soak.folder / f"round-{number}"
    folder.mkdir()
    if os.geteuid() == 0:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}m", "none", str(folder)]
        soak.is_mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    server = None
    try:
        (folder / "small.py").write_text(SPEC)
        slow(folder / "small.py", 0.1)
        sweep: list[object] = ["sweep", "small.py", *SEARCHES[number // 2 % 2], "--trials", trials, "--store"]
        whole = soak.zygote.start(*sweep, "whole", cwd=folder, HARNESS_PACE="0").wait()
        assert whole.code == 0, whole
        more: dict[str, str] = {"HARNESS_PACE": PACE}
        if number % 2:
            place = soak.folder / f"server-{number}"
            place.mkdir()
            server = Server(place)
            soak.gate = Gate(server)
            more |= {"MLFLOW_TRACKING_URI": soak.gate.uri, "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
        store, is_done = folder / "store", False
        while time.monotonic() < ends and not is_done:
            started = soak.zygote.start(*sweep, "store", cwd=folder, **more)
            time.sleep(soak._random.uniform(0.2, LONGEST))
            if not _is_alive(started.pid):
                is_done = started.wait().code == 0
                continue
            name, repair = soak.strike(store, started)
            survives = name.startswith("server")
            if survives:
                time.sleep(1)
                _signal_group(started.pid, signal.SIGKILL)
            soak.wait(started, name)
            repair()
        done = soak.zygote.start(*sweep, "store", cwd=folder, **more | {"HARNESS_PACE": "0"}).wait()
        if done.code != 0:
            soak.lines.append(f"round {number}: the last command ended with {done.code}: {done.err[-800:]}")
            return
        uri: Path | str = store if server is None else server.uri
        for what, same in (
            ("runs", lambda: _difference(_runs(uri), _runs(folder / "whole")) is None),
            ("trials", lambda: read_study(store) == read_study(folder / "whole")),
            ("checkpoints", lambda: assert_same_checkpoints(uri, folder / "whole") is None),
        ):
            _check(soak, f"round {number}: {what}", same)
    finally:
        soak.gate = None
        if server is not None:
            server.stop()
        if soak.is_mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)
            soak.is_mounted = False


def _runs(store: Path | str) -> dict[str, Any]:
    """Every run, without who trained an epoch that two share: with two trials at once that is chance."""
    runs = read_store(store)
    for run in runs.values():
        del run["reused_from"], run["metrics"]["reused_epochs"]
    return runs


def _difference(ours: Any, theirs: Any, name: str = "") -> None:
    """Raises `AssertionError` that names the first difference."""
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        for key in ours:
            _difference(ours[key], theirs[key], f"{name}/{key}")
    else:
        assert ours == theirs, f"{name}: {str(ours)[:120]}, not {str(theirs)[:120]}"


def _check(soak: Soak, what: str, same: Callable[[], Any]) -> None:
    try:
        if not same():
            soak.lines.append(f"{what} differ")
    except Exception as error:  # also one of MLflow: something is missing
        soak.lines.append(f"{what} differ: {type(error).__name__}: {str(error)[:300]}")


def _nothing() -> None:
    pass


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        pass


def _children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(text) for text in found.stdout.split()]


def _is_alive(pid: int) -> bool:
    """Whether a command runs: one that has ended and is not waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--minutes", type=float, default=30.0, metavar="N", help="how long faults are made")
    made.add_argument("--seed", type=int, default=0, help="of the faults and their moments")
    made.add_argument("--trials", type=int, default=24, help="of each sweep")
    given = made.parse_args()
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"  # of the comparison
    ends = time.monotonic() + 60 * (0.3 if given.quick else given.minutes)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    soak = Soak(folder, random.Random(given.seed))
    number = 0
    try:
        while number == 0 or time.monotonic() < ends:
            round_of(soak, number, ends, given.trials)
            number += 1
    finally:
        soak.zygote.close()
        shutil.rmtree(folder, ignore_errors=True)
    rows: list[tuple[Any, ...]] = [
        *sorted(soak.counts.items()),
        ("all faults", sum(soak.counts.values())),
        ("rounds", number),
    ]
    verdict = "every store equals the undisturbed one, bit for bit" if not soak.lines else "SOMETHING WENT WRONG"
    publish("soak", given, ["fault", "times"], rows, [verdict, *soak.lines])
    sys.exit(1 if soak.lines else 0)


if __name__ == "__main__":
    main()
