"""One small search by four programs, each a whole process: the classic loop, Lightning, Ray Tune, and the harness.

    python -m pip install '.[bench]'    # Lightning and Ray; a peer that is missing is left out
    python benchmarks/peers.py

The same work for all: trials of a VGG-16 of width 8 on 4,000 training and 1,000 validation images (32x32, generated
once, or real ones with --images FOLDER), batches of 64, crop and flip, SGD with momentum, learning rate reduced on
plateau, every trial tracked in MLflow on SQLite and its best checkpoint kept. Learning rate and momentum come from
continuous ranges, the same values for all, so that the tree of epochs saves nothing. The programs are in
`peer_programs/`.
"""

import argparse
import importlib.util
import json
import re
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import HERE, SPECS, harness, interleaved, paired_ratio, parser, publish, run_command
from images import write_images
from jobs import read

PEERS = {
    "classic loop": ("classic.py", "optuna"),
    "Lightning": ("lightning_optuna.py", "lightning"),
    "Ray Tune": ("ray_tune.py", "ray"),
}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--trials", type=int, default=6)
    arguments.add_argument("--epochs", type=int, default=4)
    arguments.add_argument("--repetitions", type=int, default=1)
    arguments.add_argument("--images", type=Path, help="a folder with train/ and val/ and one folder a class in each")
    arguments.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="loader workers; peers try each")
    arguments.add_argument("--only", nargs="+", default=[], help="parts of the names of the programs to run")
    given = arguments.parse_args()
    if given.quick:
        given.trials, given.epochs, given.only = 2, 1, ["harness"]
    with tempfile.TemporaryDirectory() as folder:
        compare(given, Path(folder))


def compare(given: argparse.Namespace, folder: Path) -> None:
    images = folder / "images.npz"
    write_images(images, given.images, train=400 if given.quick else 4_000, validation=100 if given.quick else 1_000)
    values = draw_values(given.trials, folder)
    accuracies: dict[str, list[float]] = {}
    saved: list[int] = []

    def run_peer(program: str, workers: int, name: str) -> float:
        store = tempfile.mkdtemp(dir=folder)
        seconds, out = run_command(
            [sys.executable, HERE / "peer_programs" / program], BENCH_IMAGES=str(images), BENCH_STORE=store,
            BENCH_TRIALS=str(given.trials), BENCH_EPOCHS=str(given.epochs), BENCH_WORKERS=str(workers),
            BENCH_VALUES=json.dumps(values), PYTHONPATH=str(HERE), cwd=store,  # MLflow puts artifacts where it runs
        )  # fmt: skip
        accuracies[name] = json.loads(out.strip().splitlines()[-1])
        return seconds

    def run_ours() -> float:
        store, spec = tempfile.mkdtemp(dir=folder), SPECS / "images.py"
        given_here = ["--set=sampler=tpe", f"--set=epochs={given.epochs}", "--trials", given.trials, "--no-register"]
        seconds, out = run_command(harness("sweep", spec, "--store", store, *given_here), BENCH_IMAGES=str(images))
        found = re.search(r"(\d+) saved", out)
        saved.append(int(found[1]) if found else -1)
        results, _ = read(Path(store))
        accuracies["harness"] = [value for run in results.values() for key, value in run if key == "objective"]
        return seconds

    contestants: dict[str, Callable[[], float]] = {}
    for name, (program, module) in PEERS.items():
        if importlib.util.find_spec(module) is None:
            print(f"{name} is left out: it is not installed; python -m pip install '.[bench]'")
            continue
        for workers in given.workers:
            label = f"{name}, {workers} loader workers"
            contestants[label] = lambda p=program, w=workers, n=label: run_peer(p, w, n)  # type: ignore[misc]
    contestants["harness"] = run_ours
    if given.only:
        contestants = {n: run for n, run in contestants.items() if any(part in n for part in given.only)}
    measured = interleaved(contestants, given.repetitions)
    rows: list[list[Any]] = []
    for name, seconds in measured.items():
        ratio = paired_ratio(seconds, measured["harness"]) if "harness" in measured else None
        reached = accuracies[name]
        rows.append([name, statistics.median(seconds), ratio, statistics.median(reached), max(reached)])
    notes = []
    if saved:
        notes.append(f"{saved[-1]} epochs were saved by sharing")
        peers = [(row[2], row[0]) for row in rows if row[0] != "harness"]
        if peers:
            notes.append(f"the fastest peer ({min(peers)[1]}) takes {min(peers)[0]:.2f} times as long")
    columns = ["whole process", "seconds", "times ours", "median val_accuracy", "best val_accuracy"]
    publish("peers", given, columns, rows, notes)


def draw_values(trials: int, folder: Path) -> list[dict[str, float]]:
    """The values that the harness's own search will choose, the first ten at random: all programs train these."""
    from harness.searching.study import Study
    from harness.spec import load_spec
    from harness.tracking.journal import open_journal

    experiment = load_spec(SPECS / "images.py").experiment
    study = Study(
        open_journal(folder / "values.log"), "values", experiment.hyperparameters, objective="val_accuracy",
        direction="maximize", seed=0,
        sampler="tpe", pruner=None, identity={},
    )  # fmt: skip
    return [study.ask().values for _ in range(trials)]


if __name__ == "__main__":
    main()
