"""The different ways of runs: runs that share all their epochs are one result, and count once."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.tracking.runs import RunRecord

WORSE = 0.01  # of the lowest validation loss: a rise above it by more is no noise of one epoch


@dataclass(frozen=True, kw_only=True, eq=False)
class Way:
    """A sequence of epochs, and the runs that have it, the best first.

    `metrics` holds one value an epoch for each metric; it is empty where the curves are not known.
    """

    runs: tuple[RunRecord, ...]
    metrics: Mapping[str, Sequence[float]]

    @property
    def record(self) -> RunRecord:
        return self.runs[0]

    @property
    def others(self) -> tuple[RunRecord, ...]:
        """The runs beside the first one."""
        return self.runs[1:]

    @property
    def rates(self) -> Sequence[float]:
        """The learning rate of each epoch."""
        return self.metrics.get("lr", ())

    @property
    def changes(self) -> list[int]:
        """The epochs (from 0) that began with another learning rate than the one before."""
        return [epoch for epoch in range(1, len(self.rates)) if self.rates[epoch] != self.rates[epoch - 1]]

    @property
    def drops(self) -> list[int]:
        """The epochs (from 0) that began with a lower learning rate, where it is held for several epochs at a time."""
        if len(self.changes) > len(self.rates) // 2:  # a schedule that turns it all the time
            return []
        return [epoch for epoch in self.changes if self.rates[epoch] < self.rates[epoch - 1]]


def find_ways(records: Iterable[RunRecord], histories: Mapping[str, Mapping[str, Sequence[float]]]) -> list[Way]:
    """The distinct ways of runs, in the order of their first runs."""
    found: dict[tuple[object, ...], list[RunRecord]] = {}
    for record in records:
        metrics = histories.get(record.run_id, {})
        rates, values = metrics.get("lr", ()), metrics.get(record.objective, ())
        key = (record.recipe, *rates, *map(repr, values)) if rates and record.recipe else (record.run_id,)
        found.setdefault(key, []).append(record)
    return [Way(runs=tuple(runs), metrics=histories.get(runs[0].run_id, {})) for runs in found.values()]


def find_results(ways: Sequence[Way]) -> list[list[Way]]:
    """Ways that are one result: up to their best epoch they are the same, so that their best models are equal.

    Both stand in the order of their first runs. Ways whose value is not that of their best epoch are results of
    their own.
    """
    found: dict[tuple[object, ...], list[Way]] = {}
    for way in ways:
        record, values = way.record, way.metrics.get(way.record.objective, ())
        at = None if record.best_epoch is None else record.best_epoch - 1  # its place among the values
        is_known = record.recipe and at is not None and at < len(values) == len(way.rates)
        if is_known and at is not None and values[at] == record.value:
            found.setdefault((record.recipe, at, *way.rates[: at + 1], *map(repr, values[: at + 1])), []).append(way)
        else:
            found[record.run_id,] = [way]
    return list(found.values())


@dataclass(frozen=True, kw_only=True)
class Drop:
    """The gain of a lower learning rate. The values are the best before it, and the best until the next change."""

    epoch: int  # the first one with the new rate, from 0
    before: float
    after: float
    rates: tuple[float, float]

    def gain(self, *, maximize: bool) -> float:
        """How much better it became; negative where it became worse."""
        return (self.after - self.before) * (1 if maximize else -1)


def find_drops(way: Way, metric: str, *, maximize: bool) -> list[Drop]:
    """What each drop of the learning rate gained, on one metric."""
    values, best = way.metrics.get(metric, ()), max if maximize else min
    stops = [*way.drops[1:], len(values)]
    return [
        Drop(
            epoch=epoch,
            before=best(values[:epoch]),
            after=best(values[epoch:stop]),
            rates=(way.rates[epoch - 1], way.rates[epoch]),
        )
        for epoch, stop in zip(way.drops, stops, strict=False)
        if values[epoch:stop]
    ]


def find_overfitting(way: Way) -> int | None:
    """The epoch (from 0) from which a run overfits, None where it does not.

    From there on the validation loss stays above its lowest value, and ends clearly above it, while the training loss
    goes on falling.
    """
    train, validation = way.metrics.get("train_loss", ()), way.metrics.get("val_loss", ())
    if len(validation) < 3 or len(train) != len(validation) or not all(map(math.isfinite, (*train, *validation))):
        return None
    lowest = min(range(len(validation)), key=lambda epoch: validation[epoch])
    is_above = validation[-1] > validation[lowest] * (1 + WORSE) and lowest < len(validation) - 2
    return lowest + 1 if is_above and train[-1] < train[lowest] else None


def count_changes(rates: Sequence[float]) -> int:
    """How often a learning rate differs from the one before.

    >>> count_changes([0.1, 0.1, 0.01, 0.001])
    2
    """
    return sum(a != b for a, b in itertools.pairwise(rates))
