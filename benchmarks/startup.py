"""How long commands take to start: whole processes, beside what importing torch and MLflow takes.

python benchmarks/startup.py
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import SPECS, environment, harness, interleaved, parser, publish, run_command
from images import write_images

SPEC = SPECS / "images.py"


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--repetitions", type=int, default=5)
    given = arguments.parse_args()
    if given.quick:
        given.repetitions = 1
    with tempfile.TemporaryDirectory() as folder:
        measure(given, Path(folder))


def measure(given: argparse.Namespace, folder: Path) -> None:
    images, store = folder / "images.npz", folder / "mlruns"
    write_images(images, train=128, validation=64)
    sweep = harness("sweep", SPEC, "--trials", 2, "--epochs", 1, "--no-register", "--store", store)
    if not given.quick:
        run_command(sweep, BENCH_IMAGES=str(images))

    def command(*words: object) -> float:
        return run_command(words, BENCH_IMAGES=str(images))[0]

    def first_epoch(name: str) -> float:
        fresh = tempfile.mkdtemp(dir=folder)
        words = harness(name, SPEC, "--epochs", 1, "--store", fresh, *(["--trials", 1] if name == "sweep" else []))
        return until(words, r"epoch +1/1 ", BENCH_IMAGES=str(images), HARNESS_REGISTER="0")

    python = sys.executable
    commands = {
        "python -c pass": [python, "-c", "pass"],
        "import torch": [python, "-c", "import torch"],
        "import mlflow": [python, "-c", "import mlflow"],
        "import torch, mlflow, optuna": [python, "-c", "import torch, mlflow, optuna"],
        "import harness": [python, "-c", "import harness"],
        "harness --help": harness("--help"),
        "harness sweep --help": harness("sweep", "--help"),
        "harness runs": harness("runs", SPEC, "--store", store),
        "harness best": harness("best", SPEC, "--store", store),
    }
    contestants = {name: lambda words=words: command(*words) for name, words in commands.items()}
    for name in ("train", "sweep"):
        label = f"harness {name}, new store, to the first epoch's end"
        contestants[label] = lambda name=name: first_epoch(name)
    if given.quick:
        kept = ("import torch, mlflow, optuna", "harness --help")
        contestants = {name: contestants[name] for name in kept}
    measured = interleaved(contestants, given.repetitions)
    both = min(measured["import torch, mlflow, optuna"])
    rows = [[name, statistics.median(seconds), min(seconds), min(seconds) / both] for name, seconds in measured.items()]
    columns = ["whole process", "seconds, median", "best", "times importing torch, mlflow and optuna"]
    publish("startup", given, columns, rows, ["the epoch is one of 128 images"])


def until(words: list[str], pattern: str, **more: str) -> float:
    """Seconds until a command prints what matches a pattern; the command then goes on to its end."""
    started = time.perf_counter()
    seconds = None
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=environment() | {"PYTHONUNBUFFERED": "1"} | more,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if seconds is None and re.search(pattern, line):
                seconds = time.perf_counter() - started
    if seconds is None or process.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{''.join(lines)}")
    return seconds


if __name__ == "__main__":
    main()
