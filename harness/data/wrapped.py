"""`datasets`: any `torch.utils.data.Dataset`."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from harness.data.assemble import Classes, are_labels, class_names, data_digest, describe
from harness.data.augment import Augment, augment_names, check_augment
from harness.data.collating import Collate, OwnCollate, collate
from harness.data.loader import Loading, length, targets_of
from harness.data.normalise import mean_and_std
from harness.data.part import Arrays, Data, Part
from harness.data.sampling import check_sampler, fixed_randomness
from harness.errors import HarnessError

PROBED = 64  # items of a part that are read for the digest, and for mean and deviation of uint8 images


def datasets(
    *,
    train: Dataset[Any],
    validation: Dataset[Any],
    test: Dataset[Any] | Callable[[], Part] | None = None,
    classes: Classes = None,
    name: str = "datasets",
    workers: int = 0,
    augment: Sequence[Augment] | Augment = (),
    collate_fn: Callable[[Any], Any] | None = None,
    evaluation_collate_fn: Callable[[Any], Any] | None = None,
    sampler: Iterable[int] | None = None,
    digest: str | None = None,
) -> Data:
    """Data from datasets whose items are (input, target), through a `DataLoader` with `workers` processes.

    An input is an image (a PIL image or a uint8 tensor (C, H, W)), which is converted and normalised on the device, or
    a float tensor, which is not changed. A target is a class (int), soft targets (K,) or numbers. `classes`
    are names or a number. The default is the attribute `classes` of the training dataset, or else the number of classes
    among its targets. `test` may be a function that returns the dataset when it is needed.

    `collate_fn` makes the training batches: from a list of items a pair of tensors (inputs, targets), such as
    mixed images and soft targets. `evaluation_collate_fn` does so for validation and test; without it, items
    are stacked. `sampler` chooses the training images of a pass, as in a `DataLoader`. Both may draw from the
    global random generators, a sampler also from a generator of its own: they are seeded for each epoch or pass.

    Mean, standard deviation and `digest` come from 64 items of each part, evenly spaced (read with fixed
    random seeds); where other items can change, give a `digest` of your own. Random transforms repeat with
    seed and epoch (with `workers` as well as without); another number of workers gives other draws.

    >>> import torch
    >>> from torch.utils.data import TensorDataset
    >>> part = TensorDataset(torch.randn(8, 3), torch.arange(8) % 2)
    >>> datasets(train=part, validation=part).classes
    ('0', '1')
    """
    has_collate = evaluation_collate_fn is not None
    _check_dataset(train, f"{name}: train", has_collate=collate_fn is not None)
    _check_dataset(validation, f"{name}: validation", has_collate=has_collate)
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
        raise HarnessError(f"{name}: workers must be a whole number of at least 0, not {workers!r}.")
    loading = Loading(
        workers=workers,
        collate=collate if collate_fn is None else OwnCollate(collate_fn, f"{name}: collate_fn"),
        evaluation_collate=(
            collate
            if evaluation_collate_fn is None
            else OwnCollate(evaluation_collate_fn, f"{name}: evaluation_collate_fn")
        ),
        sampler=sampler,
        count=None if sampler is None else check_sampler(sampler, length(train), name),
    )
    with fixed_randomness():
        probes = _probes(train, validation, loading, name)
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
        load_test=None if test is None else _as_loader(test, f"{name}: test", has_collate=has_collate),
        classes=names,
        augment=augments,
        mean=mean,
        std=std,
        digest=digest or data_digest(content, {"parts": kinds, "classes": names, "augment": augment_names(augments)}),
        description=describe(name, train, validation, shape, names, augments) | {"split": "given", "workers": workers},
        input_shape=shape,
        is_multilabel=names is None and are_labels([probe[1] for probe in probes]),
        loading=loading,
    )


def _as_loader(test: Any, name: str, *, has_collate: bool) -> Callable[[], Part]:
    def load() -> Part:
        found: Part = test if isinstance(test, Dataset) else test()
        if not isinstance(found, Arrays):
            _check_dataset(found, name, has_collate=has_collate)
        return found

    if not isinstance(test, Dataset) and not callable(test):
        raise HarnessError(f"{name} must be a Dataset or a function that gives one, not {test!r}.")
    return load


def _check_dataset(found: Any, name: str, *, has_collate: bool) -> None:
    if isinstance(found, IterableDataset) or not isinstance(found, Dataset) or not hasattr(found, "__len__"):
        raise HarnessError(f"{name} must be a torch Dataset with a length, not {type(found).__name__}.")
    if len(found) == 0:
        raise HarnessError(f"{name} is empty.")
    item = found[0]
    if not has_collate and (not isinstance(item, tuple | list) or len(item) != 2):
        raise HarnessError(f"{name}: its items must be pairs (input, target), not {type(item).__name__}.")


def _probes(train: Any, validation: Any, loading: Loading, name: str) -> list[tuple[Tensor, Tensor]]:
    """64 items of each part as a batch. Training and validation batches must have the same form."""
    found = [_probe(part, made) for part, made in ((train, loading.collate), (validation, loading.evaluation_collate))]
    (first, _), (second, _) = found
    if loading.collate is not collate or loading.evaluation_collate is not collate:
        kinds = [f"{str(inputs.dtype).removeprefix('torch.')} {tuple(inputs.shape[1:])}" for inputs in (first, second)]
        if first.dtype != second.dtype or first.ndim != second.ndim:
            raise HarnessError(
                f"{name}: training batches hold inputs of {kinds[0]}, validation batches of {kinds[1]}; "
                "collate_fn and evaluation_collate_fn must make them alike."
            )
    return found


def _probe(dataset: Any, made: Collate) -> tuple[Tensor, Tensor]:
    places = np.unique(np.linspace(0, len(dataset) - 1, num=PROBED).round().astype(int))
    return made([dataset[place] for place in places.tolist()])


def _classes(
    classes: Classes, train: Any, probes: Sequence[tuple[Tensor, Tensor]], name: str
) -> tuple[str, ...] | None:
    targets = [probe[1] for probe in probes]
    if classes is None and all(part.dtype == torch.int64 for part in targets):
        # torchvision's datasets know their classes by this name.
        classes = getattr(train, "classes", None)
        if classes is None:
            classes = 1 + int(targets_of(train).max())
    return class_names(classes, targets, name)
