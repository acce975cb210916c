"""The seconds that a rehearsal takes, beside those of ten epochs of the run that it is of.

    python benchmarks/rehearsal.py

The first row is a VGG-16 of width 8 on as many generated images as make ten epochs about 20 seconds on a CPU core, the
second one the demo of `experiments/vgg_cifar.py`. Each is built once before; a rehearsal is taken several times.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from common import HERE, SPECS, parser, publish
from images import write_images

from harness.spec import load_spec
from harness.training.build import DataCache, build
from harness.training.device import choose_device, choose_threads, make_deterministic
from harness.training.rehearsal import rehearse
from harness.training.run import Walk

DEMO = HERE.parent / "experiments" / "vgg_cifar.py"


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--device", default="auto")
    arguments.add_argument("--train", type=int, default=4_000, help="training images; a quarter of it validates")
    arguments.add_argument("--epochs", type=int, default=3, help="that are trained to know an epoch's seconds")
    arguments.add_argument("--repetitions", type=int, default=5)
    given = arguments.parse_args()
    if given.quick:
        given.train, given.epochs, given.repetitions = 128, 1, 1
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images.npz"
        write_images(images, train=given.train, validation=given.train // 4)
        os.environ["BENCH_IMAGES"] = str(images)
        rows = [
            measure("VGG-16", SPECS / "images.py", Path(folder), given, is_demo=False),
            measure("the demo", DEMO, Path(folder), given, is_demo=True),
        ]
    columns = ["a rehearsal of", "seconds, median", "longest", "an epoch, seconds", "share of ten epochs"]
    publish("rehearsal", given, columns, rows)


def measure(name: str, path: Path, folder: Path, given: Any, *, is_demo: bool) -> list[Any]:
    device, threads = choose_device(given.device), choose_threads(None)
    make_deterministic(threads)
    spec = load_spec(path)
    values = spec.experiment.defaults() | {"epochs": given.epochs, "threads": threads}
    built = build(spec, values, device=device, cache=DataCache(), is_demo=is_demo)
    seconds = []
    for _ in range(given.repetitions):
        started = time.perf_counter()
        rehearse(built)
        seconds.append(time.perf_counter() - started)
    run = Walk(
        built, run_id="1" * 32, paths=folder / name, budget_bytes=10**9, checkpoints=folder / f"{name} checkpoints"
    )
    epochs = [result.epoch_seconds for result in run.epochs()]
    run.close()
    median, epoch = statistics.median(seconds), statistics.median(epochs)
    return [name, median, max(seconds), epoch, median / (10 * epoch)]


if __name__ == "__main__":
    main()
