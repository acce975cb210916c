"""Functions of all benchmarks: a description of the machine, timing in turns, a table, and the record of a measurement.

Every program here prints one table and appends what it printed to `results/NAME.jsonl`, one JSON object a line.
"""

import argparse
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SPECS = HERE / "specs"
VERSIONS = ("torch", "mlflow", "optuna", "lightning", "ray")


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Arguments that every program takes: `--quick` for a look at the program itself, and where records go."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="a small form that shows that the program works")
    made.add_argument("--results", type=Path, default=HERE / "results", metavar="DIR", help="where records are kept")
    return made


def machine() -> dict[str, Any]:
    """The CPU, its cores that this process may use, the GPU if there is one, and versions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found: dict[str, Any] = {"cpu": _cpu(), "cores": cores, "gpu": _gpu(), "python": platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    return found


def publish(
    program: str,
    arguments: argparse.Namespace,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    notes: Sequence[str] = (),
) -> None:
    """Prints the table with the machine's name and appends it to the program's record."""
    where = machine()
    print(f"\n{program}: {', '.join(f'{name} {value}' for name, value in where.items() if value is not None)}")
    load = os.getloadavg()[0]
    print(f"load of the machine at the end: {load:.1f}")
    shown = [[_shown(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *shown, strict=True)]
    for line in (columns, *shown):
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
    for note in notes:
        print(note)
    given = {name: _portable(value) for name, value in vars(arguments).items() if name != "results"}
    record = {
        "program": program,
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        "commit": _commit(),
        "machine": where,
        "load": round(load, 2),
        "arguments": given,
        "columns": list(columns),
        "rows": [[round(value, 6) if isinstance(value, float) else value for value in row] for row in rows],
        "notes": list(notes),
    }
    arguments.results.mkdir(parents=True, exist_ok=True)
    with open(arguments.results / f"{program}.jsonl", "a") as file:
        file.write(json.dumps(record, default=str) + "\n")


def interleaved(contestants: Mapping[str, Callable[[], float]], repetitions: int) -> dict[str, list[float]]:
    """The measurements of each contestant, A B C A B C ..., so that a machine that others use is unfair to none."""
    measured: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants)
    for _ in range(repetitions):
        for name in order:
            gc.collect()
            measured[name].append(contestants[name]())
        order.reverse()  # whatever follows from being first or last falls on all alike
    return measured


def paired_ratio(values: Sequence[float], base: Sequence[float]) -> float:
    """The median of the ratios of neighbouring measurements: noise that lasts longer than one pair cancels."""
    return statistics.median(value / other for value, other in zip(values, base, strict=True))


def run_command(command: Sequence[object], *, cwd: str | None = None, **more: str) -> tuple[float, str]:
    """Seconds and output of a whole process; ends this program with its output where it fails."""
    started = time.perf_counter()
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, env=environment() | more, cwd=cwd
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return seconds, done.stdout


def harness(*arguments: object) -> list[str]:
    """A harness command line."""
    return [sys.executable, "-m", "harness", *map(str, arguments)]


def environment() -> dict[str, str]:
    """The environment without the caller's store and servers, with nobody calling home and bytecode kept as usual."""
    other = ("MLFLOW_", "HARNESS_", "PYTHONDONTWRITEBYTECODE")  # the last: each process would compile what it imports
    kept = {name: value for name, value in os.environ.items() if not name.startswith(other)}
    return kept | {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "RAY_USAGE_STATS_ENABLED": "0"}


def _portable(value: Any) -> Any:
    """A path as it is on every machine: within this repository, or its last name."""
    if not isinstance(value, Path):
        return value
    inside = value.absolute().is_relative_to(HERE.parent)
    return str(value.absolute().relative_to(HERE.parent)) if inside else value.name


def _shown(value: Any) -> str:
    if not isinstance(value, float):
        return "-" if value is None else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 100 else f"{value:.3f}"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _gpu() -> str | None:
    try:
        import pynvml

        pynvml.nvmlInit()
        return str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0)))
    except Exception:  # no library, no driver or no GPU: all the same here
        return None


def _commit() -> str | None:
    done = subprocess.run(
        ["git", "-C", str(HERE), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None
