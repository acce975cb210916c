"""What goes wrong on a GPU: a step that no graph can hold, an error that ends CUDA, memory that runs out."""

import json
import sqlite3
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from common import SPECS, environment, harness
from jobs import read

from gpu.ballast import holding_all_but
from gpu.child import Rows
from gpu.repeat import yes
from gpu.running import Given

SPEC = SPECS / "faulty.py"
HOG = 4 * 2**30  # bytes that each step takes, beside neighbours
ROOM = HOG * 8 // 5 + 2**30  # for two processes: two contexts, and one of their steps


def check_capture(given: Given, rows: Rows, *, fault: str) -> None:
    """A sweep whose step no graph can hold trains with the loop, and has the numbers that it has as a graph."""
    stores = [Path(tempfile.mkdtemp()) for _ in range(2)]
    good, _ = sweep(given, stores[0])
    found, done = sweep(given, stores[1], BENCH_FAULT=fault)
    captured, launched = (steps_of(store) for store in stores)
    rows.add("without it", captured[0], right=set(captured) == {"CUDA graph"})
    rows.add("with it", launched[0], right=all(step.startswith("eager: ") for step in launched))
    rows.add("exit code", done.returncode, right=done.returncode == 0)
    rows.add("as graph and as loop: same numbers", yes(same := found == good), right=same)


def steps_of(store: Path) -> list[str]:
    """How the steps of each run of a store were launched."""
    with closing(sqlite3.connect(store / "mlflow.db")) as database:
        found = [value for (value,) in database.execute("SELECT value FROM tags WHERE key = 'harness.step'")]
    return found or ["nothing was written"]


def check_fault(given: Given, rows: Rows, *, fault: str) -> None:
    """A sweep of four trials, one of which fails; the other three have the numbers that they have without it."""
    good, _ = sweep(given, Path(tempfile.mkdtemp()))
    bad, done = sweep(given, Path(tempfile.mkdtemp()), BENCH_FAULT=fault)
    rows.add("exit code", done.returncode, right=done.returncode == 0)
    statuses = sorted(bad.pop("statuses").values())
    good.pop("statuses")
    rows.add("trials", " ".join(statuses), right=statuses == ["FAILED", "FINISHED", "FINISHED", "FINISHED"])
    others = {name: numbers for name, numbers in bad.items() if ("number", "1") not in numbers}
    is_right = len(others) == 3 and all(good.get(name) == numbers for name, numbers in others.items())
    rows.add("the other trials: same numbers", yes(is_right), right=is_right)
    said = [line for line in (done.stdout + done.stderr).splitlines() if "failed" in line]
    rows.add("it says", (said or ["nothing"])[0].strip()[:200], right=bool(said))


def check_neighbours(given: Given, rows: Rows) -> None:
    """Two trials at once where one of them fits: all end, with the numbers that they have alone."""
    alone, _ = sweep(given, Path(tempfile.mkdtemp()))
    with holding_all_but(ROOM, given.device) as held:
        rows.add("held by a neighbour", held / 2**30, "GiB")
        beside, done = sweep(given, Path(tempfile.mkdtemp()), jobs=2, BENCH_HOG=str(HOG))
    statuses = sorted(beside["statuses"].values())
    rows.add("trials", " ".join(statuses), right=statuses == ["FINISHED"] * 4)
    said = [line for line in done.stdout.splitlines() if "memory" in line]
    rows.add("it says", (said or ["nothing"])[0].strip()[:200])
    rows.add("as alone: same numbers", yes(same := alone == beside), right=same)


def sweep(
    given: Given, store: Path, *, jobs: int = 1, **more: str
) -> tuple[dict[str, Any], subprocess.CompletedProcess[str]]:
    """The numbers of each trial of a sweep by its name, all statuses under `statuses`, and the command itself."""
    options = ["--store", store, "--jobs", jobs, "--device", given.device, "--no-register"]
    kept = environment() | more
    done = subprocess.run(harness("sweep", SPEC, *options), capture_output=True, text=True, check=False, env=kept)
    listed = subprocess.run(
        harness("runs", SPEC, "--store", store, "--json"), capture_output=True, text=True, check=False, env=kept
    )
    if listed.returncode:
        raise RuntimeError(f"the sweep ended with {done.returncode}: {done.stderr.strip() or done.stdout[-500:]}")
    numbers, _ = read(store)
    return {**numbers, "statuses": {run["name"]: run["status"] for run in json.loads(listed.stdout)}}, done
