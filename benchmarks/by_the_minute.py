"""One search by two programs for the same time: the best validation accuracy after some minutes.

    python benchmarks/by_the_minute.py --images FOLDER

The harness, and Optuna's TPE with Hyperband around a plain loop with a DataLoader, search the same 972 configurations
of a small VGG, one program after the other, each with the whole machine. FOLDER has train/ and val/ with one folder a
class in each; without it, images are generated. The best accuracy is that of any epoch, on the validation images.
"""

import argparse
import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import HERE, SPECS, harness, parser, publish, run_command
from images import write_images

Seen = list[tuple[float, float]]  # seconds since the start of the program, accuracy


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--images", type=Path, help="a folder with train/ and val/ and one folder a class in each")
    arguments.add_argument("--minutes", type=float, nargs="+", default=[5, 10, 20], help="when to look")
    arguments.add_argument("--train", type=int, default=8_000, help="training images; a quarter as many validate")
    arguments.add_argument("--workers", type=int, default=2, help="of the plain loop's DataLoader")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--only", nargs="+", default=[], help="parts of the names of the programs to run")
    given = arguments.parse_args()
    if given.quick:
        given.minutes, given.train = [0.2, 0.4], 200
    with tempfile.TemporaryDirectory() as folder:
        compare(given, Path(folder))


def compare(given: argparse.Namespace, folder: Path) -> None:
    images = folder / "images.npz"
    write_images(images, given.images, train=given.train, validation=given.train // 4)
    programs = {"harness": run_harness, "Optuna, TPE with Hyperband": run_peer}
    if given.only:
        programs = {name: run for name, run in programs.items() if any(part in name for part in given.only)}
    rows: list[list[Any]] = []
    for name, run in programs.items():
        trained, seen = run(given, images, folder / "store")
        best = [max((value for when, value in seen if when <= 60 * m), default=None) for m in given.minutes]
        rows.append([name, trained, *best])
    columns = ["best val_accuracy", "epochs trained", *(f"{m:g} minutes" for m in given.minutes)]
    publish("by_the_minute", given, columns, rows)


def run_harness(given: argparse.Namespace, images: Path, store: Path) -> tuple[int, Seen]:
    """The epochs that a sweep trained, and what it had seen when."""
    import mlflow

    started = time.time()
    limit = ["--timeout", f"{60 * max(given.minutes):g}s", "--set", f"seed={given.seed}", "--no-register"]
    command = harness("sweep", SPECS / "by_the_minute.py", "--store", store, *limit)
    _, out = run_command(command, BENCH_IMAGES=str(images))
    trained = re.search(r"(\d+) trained", out)
    client = mlflow.MlflowClient(f"sqlite:///{store}/mlflow.db")
    experiment = client.get_experiment_by_name("by_the_minute")
    assert trained is not None and experiment is not None
    runs = client.search_runs([experiment.experiment_id], "attributes.run_name LIKE 'trial-%'")
    points = [point for run in runs for point in client.get_metric_history(run.info.run_id, "val_accuracy")]
    return int(trained[1]), [(point.timestamp / 1000 - started, point.value) for point in points]


def run_peer(given: argparse.Namespace, images: Path, store: Path) -> tuple[int, Seen]:
    """The same of Optuna around a plain loop."""
    _, out = run_command(
        [sys.executable, HERE / "peer_programs" / "hyperband.py"], BENCH_IMAGES=str(images),
        BENCH_SECONDS=str(60 * max(given.minutes)), BENCH_WORKERS=str(given.workers), BENCH_SEED=str(given.seed),
        PYTHONPATH=f"{HERE}:{SPECS}",
    )  # fmt: skip
    seen: Seen = [tuple(json.loads(line)) for line in out.splitlines()]
    return len(seen), seen


if __name__ == "__main__":
    main()
