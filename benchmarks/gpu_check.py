"""The first hour on a GPU as one command: is everything right there, and how fast is it?

    python benchmarks/gpu_check.py                       # on the GPU; the same command goes on after an interruption
    python benchmarks/gpu_check.py --images FOLDER       # real images: a folder, or a .tar.xz of one, with train/
    python benchmarks/gpu_check.py --minutes 9           # begins no step after nine minutes
    python benchmarks/gpu_check.py --only "repeats: mlp" # steps with this in their names
    python benchmarks/gpu_check.py --device cpu --quick  # shows that the program works, on any machine

Each step runs in a process of its own with a time limit. Its rows are appended to `gpu_check.jsonl` and `gpu_check.txt`
in the folder of `--results`. Steps that need CUDA are skipped elsewhere, and say so. Exit code 1: something is wrong.
"""

import argparse
import os
import signal
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import torch
from common import parser
from gpu.running import Given, Results, run_all
from gpu.steps import identity, lacking, steps
from gpu.summary import summary


def main() -> None:
    given = arguments()
    signal.signal(signal.SIGTERM, _interrupt)
    check = Given(
        device=given.device, quick=given.quick, work=given.work,
        images=None if given.images is None else unpacked(given.images, given.work),
    )  # fmt: skip
    chosen = [step for step in steps(quick=given.quick) if not given.only or any(t in step.name for t in given.only)]
    results = Results(given.results, identity(check), fresh=given.fresh)
    ends = float("inf") if given.minutes is None else time.monotonic() + 60 * given.minutes
    known = len(results.records)
    results.note(f"\n{time.strftime('%Y-%m-%d %H:%M:%S')}  {results.identity}  {known} steps are known already")
    try:
        is_whole = run_all(chosen, check, results, lacking=lacking(check), ends=ends)
    except KeyboardInterrupt:
        results.note("interrupted: the same command goes on with the step that did not end")
        sys.exit(130)
    results.note("\n" + "\n".join(summary(results.records, count=len(steps(quick=given.quick)))))
    if not is_whole:
        results.note("the time is over: the same command goes on with the next step")
    sys.exit(not all(record.is_right for record in results.records.values()))


def arguments() -> argparse.Namespace:
    """What was asked for; ends the program where the device is not there."""
    made = parser(__doc__)
    made.add_argument("--device", default="cuda")
    made.add_argument("--images", type=Path, help="real images, a folder or an archive of one")
    made.add_argument("--minutes", type=float, metavar="N", help="begin no step after so many minutes")
    made.add_argument("--only", nargs="+", default=[], metavar="TEXT", help="only steps with one of these in the name")
    made.add_argument("--fresh", action="store_true", help="run steps again that have a record")
    made.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "gpu_check", metavar="DIR")
    given = made.parse_args()
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("benchmarks/gpu_check.py needs a CUDA device, and torch finds none here; see --device cpu --quick.")
    return given


def unpacked(images: Path, work: Path) -> Path:
    """The folder of images; an archive of it is unpacked once."""
    if images.is_dir():
        return images
    folder = work / images.name.partition(".")[0]
    if not folder.exists():
        unfinished = work / f"{os.getpid()}-{folder.name}"
        with tarfile.open(images) as archive:
            archive.extractall(unfinished, filter="data")
        unfinished.rename(folder)
    inner = [path for path in folder.iterdir() if path.is_dir()]
    return inner[0] if len(inner) == 1 else folder  # an archive may hold one folder that holds the others


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
