"""Batches of any `torch.utils.data.Dataset`, through a `DataLoader` that is seeded by epoch."""

import ctypes
import os
import pickle
import random
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from harness.data.augment import Augment, draw, generator_for
from harness.data.collating import Collate, collate
from harness.data.normalise import channels_last, normalised
from harness.data.order import shuffled
from harness.data.resident import augmented
from harness.data.sampling import order_of
from harness.errors import FAILED, HarnessError

FORK = "fork" if sys.platform == "linux" else None  # a spec's functions and classes cannot be pickled
PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal that a process gets when its parent ends


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How batches are made from the items of datasets."""

    workers: int = 0  # processes
    collate: Collate = collate  # of the training part
    evaluation_collate: Collate = collate
    sampler: Any = None  # of the training part
    count: int | None = None  # images of a pass, where a sampler chooses them


def train_batches(
    dataset: Dataset[Any],
    *,
    spans: Sequence[tuple[int, int]],
    seed: int,
    number: int,
    epoch: int | None = None,
    weights: Tensor | None = None,
    device: torch.device,
    loading: Loading,
    augment: Sequence[Augment],
    mean: Tensor | None,
    std: Tensor | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of pass `number`: `spans` are their places in its random order.

    If an epoch is not a whole pass, `epoch` makes the worker processes draw different numbers in each epoch of a pass.
    """
    generator = generator_for(seed, number, torch.device("cpu"))
    if loading.sampler is not None:
        order = order_of(loading.sampler, seed=seed, number=number)
    else:
        order = shuffled(length(dataset), weights, generator).tolist()
    if epoch is not None:
        generator = generator_for(seed, f"workers {epoch}", torch.device("cpu"))
    groups = [order[start:stop] for start, stop in spans]
    loaded = _load(dataset, groups, loading.collate, generator=generator, device=device, workers=loading.workers)
    mean, std = on_device(mean, device), on_device(std, device)
    draws = None
    for (start, stop), (inputs, targets) in zip(spans, loaded, strict=True):
        if not augment:
            yield normalised(inputs, mean, std), targets
            continue
        height, width = inputs.shape[2:]
        if draws is None:
            draws = draw(augment, len(order), height, width, generator_for(seed, number, device))
        yield augmented(channels_last(inputs), draws.at(slice(start, stop)), augment, mean, std), targets


def batches(
    dataset: Dataset[Any],
    *,
    batch_size: int,
    device: torch.device,
    collate: Collate,
    workers: int,
    mean: Tensor | None,
    std: Tensor | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """All of a dataset, in order. The global random generators are not changed."""
    count = length(dataset)
    groups = [list(range(start, min(start + batch_size, count))) for start in range(0, count, batch_size)]
    generator = generator_for(0, 0, torch.device("cpu"))
    mean, std = on_device(mean, device), on_device(std, device)
    for inputs, targets in _load(dataset, groups, collate, generator=generator, device=device, workers=workers):
        yield normalised(inputs, mean, std), targets


def _load(
    dataset: Dataset[Any],
    groups: list[list[int]],
    collate: Collate,
    *,
    generator: torch.Generator,
    device: torch.device,
    workers: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches `groups` on the device.

    The worker processes end with the epoch (`persistent_workers=False`) and get their seeds from `generator`.
    Otherwise their random state would depend on earlier epochs.
    """
    pinned = device.type == "cuda"
    batches = DataLoader(
        dataset,
        batch_sampler=groups,
        num_workers=workers,
        collate_fn=collate,
        generator=generator,
        pin_memory=pinned,
        worker_init_fn=partial(_begin_worker, int(torch.randint(2**31, (), generator=generator)), os.getpid()),
        multiprocessing_context=FORK if workers else None,
    )
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # torch's own words for the error below
            loaded = iter(batches)  # starts the worker processes
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        if not workers or FORK == "fork":
            raise
        raise HarnessError(
            f"the dataset or its collate_fn cannot be sent to {workers} loader processes: {error}. Define its classes "
            "and functions at the top of a module, not inside a function or as a lambda; or use workers=0.",
            exit_code=FAILED,
        ) from None
    for inputs, targets in loaded:
        yield inputs.to(device, non_blocking=pinned), targets.to(device, non_blocking=pinned)


def on_device(values: Tensor | None, device: torch.device) -> Tensor | None:
    """Mean or std on the device of the batches. It is moved once an epoch, since each move waits for the device."""
    return None if values is None else values.to(device)


def _begin_worker(seed: int, parent: int, worker: int) -> None:
    if FORK is not None:  # ends with the process that trains; on other systems torch checks every few seconds
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    random.seed(seed + worker)
    np.random.seed(seed + worker)
    torch.manual_seed(seed + worker)


def length(dataset: Dataset[Any]) -> int:
    """How many items a dataset has."""
    return len(dataset)  # type: ignore[arg-type]  # Dataset declares none; datasets() has asked for one


def targets_of(dataset: Dataset[Any]) -> Tensor:
    """The target of every item: those that the dataset keeps as `targets`, as torchvision's do, or read one by one."""
    count = length(dataset)
    kept = getattr(dataset, "targets", None)
    if kept is not None and len(kept) == count:
        found = torch.as_tensor(kept)
        places = sorted({index * (count - 1) // 15 for index in range(16)})
        if all(torch.equal(found[place], torch.as_tensor(dataset[place][1])) for place in places):
            return found
    return torch.as_tensor([dataset[place][1] for place in range(count)])
