"""Makes a user's sampler repeatable: its order depends only on the seed and the pass."""

import copy
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from harness.data.augment import number_for
from harness.errors import HarnessError


def order_of(sampler: Iterable[Any], *, seed: int, number: int) -> list[int]:
    """The indices that a sampler gives in pass `number`.

    The global generators, and those in the sampler's attributes, are seeded for this and restored afterwards.
    `set_epoch` is called if the sampler has it, as torch's `DistributedSampler` does.
    """
    mixed = number_for(seed, number)
    fresh = copy.copy(sampler)
    for name, value in vars(fresh).items() if hasattr(fresh, "__dict__") else ():
        if (seeded := _seeded(value, mixed)) is not None:
            setattr(fresh, name, seeded)
    if hasattr(fresh, "set_epoch"):
        fresh.set_epoch(number)
    with fixed_randomness(mixed):
        return list(fresh)


def check_sampler(sampler: Any, count: int, name: str) -> int:
    """The number of images of a pass. Raises `HarnessError` for a sampler whose order is not repeatable."""
    if not isinstance(sampler, Iterable):
        raise HarnessError(f"{name}: sampler must be a torch Sampler, not {type(sampler).__name__}.")
    if iter(sampler) is sampler:
        raise HarnessError(f"{name}: the sampler can be gone through only once; give an object with __iter__.")
    before = dict(vars(sampler)) if hasattr(sampler, "__dict__") else {}
    fresh = copy.copy(sampler)
    with fixed_randomness(0):
        order = list(fresh)
    changed = [key for key, value in before.items() if vars(fresh).get(key) is not value]
    if changed or order_of(sampler, seed=0, number=0) != order_of(sampler, seed=0, number=0):
        what = f"its attribute {changed[0]} changes" if changed else "it gives another order each time"
        raise HarnessError(
            f"{name}: the sampler keeps count of its passes ({what}), so that an interrupted run could not go on "
            "exactly. Let its order follow from a method set_epoch(epoch), or from torch's random generator alone."
        )
    if any(isinstance(index, list | tuple) for index in order):
        raise HarnessError(f"{name}: the sampler gives lists of indices; give one of single indices.")
    wrong = [index for index in order if not 0 <= int(index) < count]
    if wrong:
        raise HarnessError(f"{name}: the sampler gives index {wrong[0]}; there are {count:,} training items.")
    if not order:
        raise HarnessError(f"{name}: the sampler gives no index.")
    return len(order)


def _seeded(value: Any, mixed: int) -> Any:
    """A seeded random generator of the same kind; None if the value is not a generator."""
    if isinstance(value, torch.Generator):
        return torch.Generator(device=value.device).manual_seed(mixed)
    if isinstance(value, np.random.Generator):
        return np.random.Generator(type(value.bit_generator)(mixed))
    if isinstance(value, np.random.RandomState):
        return np.random.RandomState(mixed % 2**32)
    return random.Random(mixed) if isinstance(value, random.Random) else None


@contextmanager
def fixed_randomness(seed: int = 0) -> Iterator[None]:
    """Seeds the global generators of the CPU for a `with` block, and restores them afterwards."""
    state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(state[0])
            np.random.set_state(state[1])
