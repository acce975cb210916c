"""`new`: a small, commented spec to start from, for the digits that need no download or for a folder of images."""

import os
import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from harness.errors import HarnessError
from harness.files import write_whole

SIZES = (32, 64, 96, 128)  # of square images; larger ones see more and take longer
SAMPLED = 20  # images of each class that are looked at
GREY = ("1", "L", "LA", "I;16")

SPEC = '''"""{summary}

    python -m harness train {file}                # one run, at the defaults
    python -m harness sweep {file} --trials 20    # a search; the same command again continues
    python -m harness runs {file}                 # all runs, the best first
"""

from torch import nn, optim

from harness import Experiment, search
from harness.data import {source}


class {name}(Experiment):
    # Settings are plain values; the README has a table of them.
    epochs = {epochs}
    batch_size = {batch_size}

    # Hyperparameters are what a sweep searches. In a method each is a plain value: self.lr, self.width.
    # With steps (points=, step=), trials can have equal values, and share epochs.
    lr: float = search.log_uniform(1e-3, 1e-1, points=9, default=3.16228e-2)
    momentum: float = search.choice(0.8, 0.9, 0.95, default=0.9)
    width: int = search.choice(16, 32, default=16)
    patience: int = search.integer(2, 8, step=2, default=4)
    factor: float = search.choice(0.1, 0.2, 0.5, default=0.2)

    def data(self):
        # {about}
        return {call}

    def model(self):
        # Any nn.Module: this one, torchvision's, your own. It has one output for each class.
        layers, channels = [], {channels}
        for width in (self.width, 2 * self.width, 4 * self.width):
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [nn.MaxPool2d(2)]
            channels = width
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, {classes}))

    def optimizer(self, parameters):
        return optim.SGD(parameters, lr=self.lr, momentum=self.momentum, weight_decay=5e-4)

    def scheduler(self, optimizer):
        # After each epoch it gets the validation loss; `monitor = "train_loss"` above gives it another metric.
        return optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience)

    # More methods have defaults: loss() is the cross-entropy, metrics() the accuracy, and step() one batch of training.
    #
    # def loss(self):
    #     return nn.CrossEntropyLoss(label_smoothing=0.1)
    #
    # def step(self, model, loss, optimizer, inputs, targets):
    #     outputs = model(inputs)
    #     value = loss(outputs, targets)
    #     optimizer.zero_grad(set_to_none=True)
    #     value.backward()
    #     nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    #     optimizer.step()
    #     return value, outputs
'''


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The content of a folder of images, with one folder for each class, in it or in its `train`."""

    classes: int
    size: int  # that suits most of the images
    is_grey: bool
    is_split: bool  # it has a validation part of its own

    def __str__(self) -> str:
        colour = "grey" if self.is_grey else "colour"
        return f"{self.classes} classes, {colour} images, to be {self.size} by {self.size}"


def write_spec(file: Path, data: Path | None = None) -> Survey | None:
    """Writes a spec, for a folder of images if one is given; returns what was found there.

    Raises `HarnessError` if the file exists already or is no Python file, or if the folder holds no images.
    """
    if file.suffix != ".py":
        raise HarnessError(f"{file} is not a Python file: name it such as my_spec.py.")
    if file.exists():
        raise HarnessError(f"{file} exists already; choose another name.")
    found = None if data is None else survey(data)
    name = "".join(part[:1].upper() + part[1:] for part in re.split(r"\W|_", file.stem) if part)
    common = {"file": file, "name": name if name.isidentifier() else f"Spec{name}"}
    fitted = _digits() if data is None or found is None else _folder(data, found)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, SPEC.format(**common, **fitted))
    return found


def _digits() -> dict[str, object]:
    return {
        "summary": "A small convolutional network on 1,797 handwritten digits of 8 by 8 pixels.",
        "source": "digits",
        "call": "digits()",
        "about": "Others: cifar10(), image_folder('photos', size=64), tensors(inputs, targets), datasets(train=...).",
        "epochs": 20,
        "batch_size": 64,
        "channels": 1,
        "classes": 10,
    }


def _folder(data: Path, found: Survey) -> dict[str, object]:
    options = [repr(str(data)).replace("'", '"'), f"size={found.size}"]
    options += [] if found.is_split else ["validation=0.2"]
    options += ['augment=("flip",)'] + ["channels=1"] * found.is_grey
    kept = "its own validation part" if found.is_split else "a fifth of the images is kept for validation"
    return {
        "summary": f"A small convolutional network on the images of {data}: {found.classes} classes.",
        "source": "image_folder",
        "call": f"image_folder({', '.join(options)})",
        "about": f"One folder a class; {kept}. Images are decoded once, cut square, and kept in memory.",
        "epochs": 20,
        "batch_size": 32,
        "channels": 1 if found.is_grey else 3,
        "classes": found.classes,
    }


def survey(folder: Path) -> Survey:
    """Looks at some images of each class of a folder."""
    from PIL import Image

    if not folder.is_dir():
        raise HarnessError(f"--data {folder}: there is no such folder.")
    is_parted = bool(_folders(folder / "train"))
    classes = _folders(folder / "train" if is_parted else folder)
    if len(classes) < 2:
        raise HarnessError(f"--data {folder}: it holds {len(classes)} folders; at least 2 are needed, one a class.")
    sides, modes = [], set()
    for path in classes:
        for file in islice(_files(path), SAMPLED):
            try:
                with Image.open(file) as image:
                    sides.append(min(image.size))
                    modes.add(image.mode)
            except OSError:  # no image
                continue
    if not sides:
        raise HarnessError(f"--data {folder}: there are no images in {classes[0]} and the folders beside it.")
    shorter = statistics.median(sides)
    return Survey(
        classes=len(classes),
        size=max((size for size in SIZES if size <= shorter), default=SIZES[0]),
        is_grey=modes <= set(GREY),
        is_split=is_parted and any((folder / name).is_dir() for name in ("val", "validation", "valid")),
    )


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and entry.name[0] != ".") if path.is_dir() else []


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders.sort()
        yield from (Path(place, name) for name in sorted(files) if name[0] != ".")
