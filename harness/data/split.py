"""Which images go to which part: seeded, and stratified if there are classes."""

import numpy as np
import numpy.typing as npt
from torch import Tensor

from harness.errors import HarnessError

Indices = npt.NDArray[np.int64]


def part_size(size: object, count: int, name: str) -> int:
    """How many of `count` go to a part given as a count (int) or a fraction (float).

    >>> part_size(0.1, 500, "validation"), part_size(20, 500, "validation")
    (50, 20)
    """
    if isinstance(size, int) and not isinstance(size, bool) and size >= 1:
        return size
    if isinstance(size, float) and 0 < size < 1:
        return max(1, round(size * count))
    raise HarnessError(f"{name} must be a count of at least 1 or a fraction between 0 and 1, not {size!r}.")


def split(labels: Tensor | None, count: int, sizes: tuple[int, ...], *, seed: int) -> list[Indices]:
    """Indices, ascending, of the parts of these sizes, and last of the rest.

    With labels (N,) each part holds each class in its proportion (to within one image), and the rest keeps at
    least one of each class while it can. Raises `HarnessError` where nothing would be left to train on.
    """
    if sum(sizes) >= count:
        raise HarnessError(f"{sum(sizes):,} of {count:,} were asked for, and nothing is left to train on.")
    order = np.random.default_rng(seed).permutation(count)
    if labels is not None:
        order = order[np.argsort(_stratified_ranks(labels.numpy()[order]), kind="stable")]
    parts = np.split(order, np.cumsum(sizes))
    return [np.sort(part) for part in parts]


def _stratified_ranks(labels: Indices) -> npt.NDArray[np.float64]:
    """A rank for each label: any part of the sorted order then holds the classes in proportion.

    The i-th of n members of a class gets (i + 1/2) / n; the last member sorts after all others.
    """
    _, labels = np.unique(labels, return_inverse=True)
    grouped = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels)
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    place = np.arange(len(labels)) - starts[labels[grouped]]
    size = sizes[labels[grouped]]
    ranks = np.empty(len(labels))
    ranks[grouped] = (place + 0.5) / size + (place == size - 1)
    return ranks
