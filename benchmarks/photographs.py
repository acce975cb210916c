"""A folder of photographs at 224 x 224: memory, the seconds to decode it once, and images a second of the input path.

    python benchmarks/photographs.py --images FOLDER --keep WRITTEN

The images of FOLDER (one folder a class; generated ones without it) are enlarged to 256 x 256 and written as JPEG
files into WRITTEN, where a later call finds them. Then `image_folder` decodes them once, and its batches are measured
against a DataLoader over torchvision's ImageFolder with the same augmentation. Nothing is trained. Memory is that of
this process and of those that it starts, without the system's cache of files, and without what it was before.
"""

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from common import interleaved, paired_ratio, parser, publish
from PIL import Image
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

from harness.data import Data, image_folder, shapes
from harness.data.part import Arrays
from harness.training.device import choose_threads

BATCH_SIZE, SIZE, WRITTEN_SIZE = 64, 224, 256
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
AUGMENTS: dict[str, tuple[Any, list[Any]]] = {
    "crop and flip": (("random_resized_crop", "flip"), []),
    "and colours": (("random_resized_crop", "flip", "color_jitter"), [transforms.ColorJitter(0.4, 0.4, 0.4)]),
}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--images", type=Path, help="a folder of images, one folder a class")
    arguments.add_argument("--keep", type=Path, help="where the enlarged images are, or are written")
    arguments.add_argument("--count", type=int, default=20_000)
    arguments.add_argument("--batches", type=int, default=30, help="of a turn")
    arguments.add_argument("--repetitions", type=int, default=3)
    arguments.add_argument("--workers", type=int, default=2, help="of the DataLoader")
    arguments.add_argument("--only-write", action="store_true", help="write the enlarged images, measure nothing")
    given = arguments.parse_args()
    if given.quick:
        given.count, given.batches, given.repetitions, given.workers = 80, 1, 1, 0
    with tempfile.TemporaryDirectory() as folder:
        written = given.keep or Path(folder) / "photographs"
        if not written.exists():
            write(written, given.images, given.count)
        os.environ["HARNESS_DATA_DIR"] = folder
        if not given.only_write:
            measure(given, written)


def write(folder: Path, images: Path | None, count: int) -> None:
    """Writes `count` images, as many of each class, enlarged."""
    for number, (label, image) in enumerate(originals(images, count)):
        place = folder / label / f"{number:06d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        image.resize((WRITTEN_SIZE, WRITTEN_SIZE), Image.Resampling.BICUBIC).save(place, quality=90)


def originals(images: Path | None, count: int) -> Iterator[tuple[str, Image.Image]]:
    """Images with the names of their classes."""
    if images is None:
        train = shapes(train=count, validation=10, test=1).train
        assert isinstance(train, Arrays)
        for label, pixels in zip(train.targets.tolist(), train.inputs.permute(0, 2, 3, 1).numpy(), strict=True):
            yield str(label), Image.fromarray(np.ascontiguousarray(pixels))
        return
    classes = sorted(path for path in images.iterdir() if path.is_dir())
    for label in classes:
        for path in sorted(label.iterdir())[: count // len(classes)]:
            yield label.name, Image.open(path).convert("RGB")


def measure(given: argparse.Namespace, folder: Path) -> None:
    torch.set_num_threads(choose_threads(None))
    rows: list[list[Any]] = []
    with peak() as decoding:
        started = time.perf_counter()
        load(folder, ())
        decode_seconds = time.perf_counter() - started
    started = time.perf_counter()
    load(folder, ())
    again_seconds = time.perf_counter() - started
    memory: dict[str, float] = {}
    for name, (ours, theirs) in AUGMENTS.items():
        data, batches = load(folder, ours), loader(folder, theirs, given)
        turns = {
            "harness": lambda data=data: through(our_batches(data, given.batches)),
            f"DataLoader, {given.workers} workers": lambda batches=batches: through(iter(batches)),
        }
        for who, turn in turns.items():
            with peak() as used:
                turn()  # worker processes and caches are not part of a turn
            memory[f"{who}, {name}"] = used[0] / 1e6
        measured = interleaved(turns, given.repetitions)
        base = next(iter(measured.values()))
        rows += [
            [f"{who}, {name}", statistics.median(seconds), max(seconds), 1 / paired_ratio(seconds, base),
             memory[f"{who}, {name}"]]
            for who, seconds in measured.items()
        ]  # fmt: skip
    images = sum(1 for _ in folder.rglob("*.jpg"))
    for row in rows:
        row[1], row[2] = (min(given.batches * BATCH_SIZE, images) / seconds for seconds in row[1:3])
    notes = [
        f"{images:,} images: decoded in {decode_seconds:.1f} s with at most {decoding[0] / 1e6:,.0f} MB of memory, "
        f"into a file of {images * SIZE * SIZE * 3 / 1e9:.2f} GB; opened again in {again_seconds:.2f} s",
        f"{torch.get_num_threads()} threads; batches of {BATCH_SIZE}, {given.batches} of them a turn",
    ]
    columns = ["input path alone", "images/s, median", "slowest turn", "speed to first, paired median", "memory, MB"]
    publish("photographs", given, columns, rows, notes)


def load(folder: Path, augment: Any) -> Data:
    return image_folder(folder, size=SIZE, validation=0.1, augment=augment, mean=MEAN, std=STD)


def our_batches(data: Data, count: int) -> Iterator[Any]:
    return data.train_batches(batch_size=BATCH_SIZE, seed=0, epoch=0, device="cpu", epoch_steps=count)


def loader(folder: Path, more: list[Any], given: argparse.Namespace) -> DataLoader[Any]:
    """Torchvision's images, opened and transformed one by one by worker processes that stay."""
    steps = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip(), *more]
    transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    found = datasets.ImageFolder(str(folder), transform)
    chosen = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))[: given.batches * BATCH_SIZE]
    return DataLoader(
        Subset(found, chosen.tolist()), batch_size=BATCH_SIZE, shuffle=True, num_workers=given.workers,
        persistent_workers=given.workers > 0,
    )  # fmt: skip


def through(batches: Iterator[Any]) -> float:
    """Seconds until all batches are there."""
    started = time.perf_counter()
    for inputs, _ in batches:
        assert inputs.shape[1:] == (3, SIZE, SIZE)
    return time.perf_counter() - started


@contextmanager
def peak() -> Iterator[list[float]]:
    """The most memory, in bytes, that this process and those that it starts have of their own, above what it is now."""
    process, found, is_over = psutil.Process(), [0.0], threading.Event()

    def used() -> int:
        total = 0
        for each in (process, *process.children(recursive=True)):
            try:
                total += each.memory_full_info().uss
            except psutil.Error:  # it has ended
                continue
        return total

    def watch() -> None:
        while not is_over.wait(0.1):
            found[0] = max(found[0], used() - before)

    before = used()
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        found[0] = max(found[0], used() - before)
        is_over.set()
        thread.join()


if __name__ == "__main__":
    main()
