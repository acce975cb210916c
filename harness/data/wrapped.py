"""`datasets`: any `torch.utils.data.Dataset`."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from harness.data.assemble import Classes, class_names, data_digest, describe
from harness.data.augment import check_augment
from harness.data.loader import collate, length
from harness.data.normalise import mean_and_std
from harness.data.part import Arrays, Data, Part
from harness.errors import HarnessError

PROBED = 64  # items a part that are read for its digest and, of uint8 images, for mean and deviation


def datasets(
    *,
    train: Dataset[Any],
    validation: Dataset[Any],
    test: Dataset[Any] | Callable[[], Part] | None = None,
    classes: Classes = None,
    name: str = "datasets",
    workers: int = 0,
    augment: Sequence[str] | str = (),
    digest: str | None = None,
) -> Data:
    """Data from datasets whose items are (input, target), through a `DataLoader` with `workers` processes.

    An input is an image as PIL image or uint8 tensor (C, H, W), converted and normalised on the device, or a
    float tensor, which stays as it is. A target is a class (int), soft targets (K,) or numbers. `classes`
    are names or a number; without them, those that the training dataset has as `classes`, else as many as a
    pass through its targets finds. `test` may be a function that gives the dataset when it is asked for.

    Mean, standard deviation and `digest` come from 64 items of each part, evenly spaced (read with fixed
    random seeds); where other items can change, give a `digest` of your own. Random transforms repeat with
    seed and epoch (with `workers` as well as without); another number of workers gives other draws.

    >>> import torch
    >>> from torch.utils.data import TensorDataset
    >>> part = TensorDataset(torch.randn(8, 3), torch.arange(8) % 2)
    >>> datasets(train=part, validation=part).classes
    ('0', '1')
    """
    for part, found in (("train", train), ("validation", validation)):
        _check_dataset(found, f"{name}: {part}")
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
        raise HarnessError(f"{name}: workers must be a whole number of at least 0, not {workers!r}.")
    with _fixed_randomness():
        probes = [collate(_probe(part)) for part in (train, validation)]
        names = _classes(classes, train, probes, name)
    inputs = probes[0][0]
    shape = tuple(inputs.shape[1:])
    is_image = inputs.dtype == torch.uint8
    mean, std = mean_and_std(inputs) if is_image else (None, None)
    augments = check_augment(augment, images=len(shape) == 3)
    kinds = [f"{type(part).__name__} {length(part)}" for part in (train, validation)]
    content = [tensor for probe in probes for tensor in probe]
    return Data(
        name=name,
        train=train,
        validation=validation,
        load_test=None if test is None else _as_loader(test, f"{name}: test"),
        classes=names,
        augment=augments,
        mean=mean,
        std=std,
        digest=digest or data_digest(content, {"parts": kinds, "classes": names, "augment": augments}),
        description=describe(name, train, validation, shape, names, augments) | {"split": "given", "workers": workers},
        input_shape=shape,
        workers=workers,
    )


def _as_loader(test: Any, name: str) -> Callable[[], Part]:
    def load() -> Part:
        found: Part = test if isinstance(test, Dataset) else test()
        if not isinstance(found, Arrays):
            _check_dataset(found, name)
        return found

    if not isinstance(test, Dataset) and not callable(test):
        raise HarnessError(f"{name} must be a Dataset or a function that gives one, not {test!r}.")
    return load


def _check_dataset(found: Any, name: str) -> None:
    if isinstance(found, IterableDataset) or not isinstance(found, Dataset) or not hasattr(found, "__len__"):
        raise HarnessError(f"{name} must be a torch Dataset with a length, not {type(found).__name__}.")
    if len(found) == 0:
        raise HarnessError(f"{name} is empty.")
    item = found[0]
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise HarnessError(f"{name}: its items must be pairs (input, target), not {type(item).__name__}.")


def _probe(dataset: Any) -> list[Any]:
    places = np.unique(np.linspace(0, len(dataset) - 1, num=PROBED).round().astype(int))
    return [dataset[place] for place in places.tolist()]


def _classes(
    classes: Classes, train: Any, probes: Sequence[tuple[Tensor, Tensor]], name: str
) -> tuple[str, ...] | None:
    targets = [probe[1] for probe in probes]
    if classes is None and all(part.dtype == torch.int64 for part in targets):
        # torchvision's datasets know their classes by this name.
        classes = getattr(train, "classes", None)
        if classes is None:
            classes = 1 + max(int(train[place][1]) for place in range(len(train)))
    return class_names(classes, targets, name)


@contextmanager
def _fixed_randomness() -> Iterator[None]:
    """Reading items with random transforms gives the same each time, and leaves the generators as they were."""
    state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        try:
            yield
        finally:
            random.setstate(state[0])
            np.random.set_state(state[1])
