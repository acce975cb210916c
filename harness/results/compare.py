"""Compares runs: what differs between them, their metrics, and whether the difference is significant."""

import difflib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.data import Arrays
from harness.data.assemble import data_digest
from harness.errors import HarnessError
from harness.notebook import html_table
from harness.results.reload import LoadedRun, load
from harness.results.sentences import verdict
from harness.results.statistics import Array, Estimate, mcnemar, paired_bootstrap
from harness.settings import of_a_run
from harness.tracking.runs import RunRecord, find_run, to_record
from harness.tracking.store import Store
from harness.tracking.tags import (
    COMMIT,
    DEMO,
    DEVICE,
    DIRTY,
    HOST,
    OF_SETTINGS,
    PRECISION,
    SPEC,
    SPEC_PATH,
    THREADS,
    VERSION,
)
from harness.training.measures import accuracy, mean_absolute_error
from harness.training.recipe import code_digests, differences

if TYPE_CHECKING:
    from mlflow.entities import Run

LEVEL = 0.95
LABELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
TAGS = {
    "device": DEVICE,
    "precision": PRECISION,
    "threads": THREADS,
    "host": HOST,
    "commit": COMMIT,
    "uncommitted changes": DIRTY,
    "demo": DEMO,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """The scores of a run's model on each validation image: 1 or 0 for right or wrong, or the absolute error."""

    measure: str  # "accuracy" or "mean_absolute_error"
    scores: Array  # (N,)
    part: str  # digest of the validation part

    @property
    def mean(self) -> float:
        return float(self.scores.mean())


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """One run of a comparison. `measured` is None if its model cannot be measured; `reason` says why."""

    label: str
    experiment: str
    record: RunRecord
    settings: dict[str, Any]
    environment: dict[str, str]
    sources: dict[str, str]  # path -> text, the spec file first
    code: dict[str, str]  # part of the code -> digest
    best: dict[str, float]  # metrics of the best epoch
    last: dict[str, float]
    measured: Measured | None
    reason: str | None
    note: str | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """Two models on the same validation images, the better one first.

    `difference` is in the unit of the measure, and positive if `first` is better. It is None if they cannot be compared
    image by image; `reason` says why. `p_value` is that of McNemar's test; None for regression.
    """

    first: Side
    second: Side
    difference: Estimate | None = None
    both: int = 0  # images that both have right; the next ones likewise
    only_first: int = 0
    only_second: int = 0
    neither: int = 0
    p_value: float | None = None
    reason: str | None = None

    @property
    def is_real(self) -> bool:
        """Whether the interval excludes zero and, for classes, McNemar's test agrees.

        Both are needed: with few images that differ, the bootstrap's interval is too narrow.
        """
        if self.difference is None:
            return False
        agrees = self.p_value is None or self.p_value < 1 - self.difference.level
        return self.difference.excludes_zero and agrees


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Comparison:
    """Runs in the order in which they were named, and the comparison of the best one with each other one.

    `differing` holds, for each group, the entries that are not the same in all runs: one value for each run. `code`
    names the parts of the code that changed from the first run to each other one; `diffs` shows them as unified diffs.
    """

    sides: tuple[Side, ...]
    differing: dict[str, dict[str, tuple[Any, ...]]]  # "params", "settings", "environment"
    alike: dict[str, Any]  # the params that are the same in all runs
    code: tuple[list[str], ...]
    diffs: tuple[list[str], ...]
    pairs: tuple[Pair, ...]

    def __repr__(self) -> str:
        runs = "\n".join(f"{side.label}: {side.record!r}" for side in self.sides)
        return "\n".join((runs, *map(verdict, self.pairs)))

    def _repr_html_(self) -> str:
        heads = ["", *(f"{side.label}: {side.record.name}" for side in self.sides)]
        rows = [(name, *values) for group in self.differing.values() for name, values in group.items()]
        for when, metrics in (("best", [s.best for s in self.sides]), ("last", [s.last for s in self.sides])):
            names = dict.fromkeys(name for one in metrics for name in one)
            rows += [(f"{when} {name}", *(one.get(name) for one in metrics)) for name in names]
        return html_table(heads, rows, note="\n".join(map(verdict, self.pairs)))


def compare(
    runs: Sequence[str],
    *,
    study: str | int | None = None,
    store: str | Path = "mlruns",
    experiment: str | None = None,
    device: str = "auto",
) -> Comparison:
    """Compares runs of a store. A run is named by its id, a unique beginning of it, or `best`
    (of `experiment` and its newest study, or another `study`).

    Models are measured again on the validation part, image by image. With several comparisons, each one's level is
    such that all together are wrong in at most 5 of 100 cases (Bonferroni); for two runs it is 95%.
    Raises `HarnessError` if a run is not found, or if there are fewer than two.
    """
    opened = Store(Path(store))
    found = [find_run(opened, text, experiment, study=study) for text in runs]
    if len({run.info.run_id for run in found}) < max(2, len(found)):
        raise HarnessError("Name at least two different runs. `python -m harness runs SPEC` lists them.")
    if len(found) > len(LABELS):
        raise HarnessError(f"{len(found)} runs are too many to read; name at most {len(LABELS)}.")
    return compare_runs(opened, found, device=device)


def compare_runs(store: Store, runs: Sequence["Run"], *, device: str = "auto") -> Comparison:
    """Compares runs of an open store: see `compare`."""
    sides = tuple(_gather(store, run, label, device) for label, run in zip(LABELS, runs, strict=False))
    groups = {
        "params": [side.record.params for side in sides],
        "settings": [side.settings for side in sides],
        "environment": [side.environment for side in sides],
    }
    differing = {group: _differing(values) for group, values in groups.items()}
    first, *others = sides
    return Comparison(
        sides=sides,
        differing=differing,
        alike={name: value for name, value in first.record.params.items() if name not in differing["params"]},
        code=tuple(_code_changes(first, other) for other in others),
        diffs=tuple(diff_sources(first, other) for other in others),
        pairs=_pairs(sides),
    )


def compare_pair(first: Side, second: Side, *, level: float = LEVEL) -> Pair:
    """Whether one of two models is significantly better on the same validation images."""
    for side in (first, second):
        if side.measured is None:
            return Pair(first=first, second=second, reason=f"{side.label} cannot be measured: {side.reason}")
    one, two = first.measured, second.measured
    assert one is not None and two is not None
    if one.measure != two.measure:
        measures = [found.measure.replace("_", " ") for found in (one, two)]
        reason = f"{first.label} is measured by {measures[0]}, {second.label} by {measures[1]}"
        return Pair(first=first, second=second, reason=reason)
    if one.part != two.part:
        reason = "their validation parts differ, so they cannot be compared image by image"
        return Pair(first=first, second=second, reason=reason)
    sign = 1.0 if one.measure == "accuracy" else -1.0  # a smaller error is better
    if sign * two.mean > sign * one.mean:
        first, second, one, two = second, first, two, one
    difference = paired_bootstrap(sign * (one.scores - two.scores), level=level)
    if one.measure != "accuracy":
        return Pair(first=first, second=second, difference=difference)
    right, also = one.scores > 0.5, two.scores > 0.5
    only_first, only_second = int((right & ~also).sum()), int((also & ~right).sum())
    return Pair(
        first=first,
        second=second,
        difference=difference,
        both=int((right & also).sum()),
        only_first=only_first,
        only_second=only_second,
        neither=int((~right & ~also).sum()),
        p_value=mcnemar(only_first, only_second),
    )


def diff_sources(first: Side, second: Side) -> list[str]:
    """A unified diff of the spec files and their local modules."""
    spec, other = next(iter(first.sources), ""), next(iter(second.sources), "")
    paths = [(spec, other)] if spec and other else []
    paths += [(path, path) for path in sorted({*first.sources, *second.sources} - {spec, other})]
    lines: list[str] = []
    for before, after in paths:
        old, new = first.sources.get(before, "").splitlines(), second.sources.get(after, "").splitlines()
        lines += difflib.unified_diff(old, new, f"{first.label}/{before}", f"{second.label}/{after}", lineterm="")
    return lines


def measure_each(loaded: LoadedRun) -> Measured:
    """The score of a run's model on each validation image."""
    data = loaded.built.data
    outputs, targets = loaded.outputs("validation")
    is_classes = data.is_classification
    scores = (accuracy if is_classes else mean_absolute_error)(outputs, targets)
    part = data.validation
    whole = [part.inputs.cpu(), part.targets.cpu()] if isinstance(part, Arrays) else None
    return Measured(
        measure="accuracy" if is_classes else "mean_absolute_error",
        scores=scores.double().numpy(),
        # The validation images can be the same although the training part or the augmentation differs.
        part=data_digest(whole, {}) if whole is not None else data.digest,
    )


def _gather(store: Store, run: "Run", label: str, device: str) -> Side:
    record, tags = to_record(run), run.data.tags
    best, last = _epochs(store, run)
    measured, reason, note, code = None, None, None, {}
    settings: dict[str, Any] = {name: tags[tag] for name, tag in OF_SETTINGS.items() if tag in tags}
    try:
        loaded = load(store, run, device=device)
        code = code_digests(loaded.built.spec, scheduler=True)
        values = loaded.experiment.values()
        settings = {name: value for name, value in of_a_run(values).items() if name not in record.params}
        measured = measure_each(loaded)
        logged = [entry.dataset.digest for entry in run.inputs.dataset_inputs] if run.inputs else []
        if logged and not loaded.built.data.digest.startswith(logged[0]):
            note = "the data is not what the run was trained on"
    except HarnessError as error:
        reason = str(error)
    return Side(
        label=label,
        experiment=tags.get(SPEC, ""),
        record=record,
        settings=settings,
        environment=_environment(run),
        sources=_sources(store, run),
        code=code,
        best=best,
        last=last,
        measured=measured,
        reason=reason,
        note=note,
    )


def _epochs(store: Store, run: "Run") -> tuple[dict[str, float], dict[str, float]]:
    """The metrics of the best epoch and of the last one."""
    names = [name for name in run.data.metrics if name.startswith(("train_", "val_")) or name == "lr"]
    history = {
        name: {point.step: point.value for point in store.client.get_metric_history(run.info.run_id, name)}
        for name in names
    }
    steps = {step for points in history.values() for step in points}
    last = max(steps, default=-1)
    best = run.data.metrics.get("best_epoch")
    at = [round(best) if best is not None and math.isfinite(best) else None, last]
    found = [{name: points[step] for name, points in history.items() if step in points} for step in at]
    for step, metrics in zip(at, found, strict=True):
        if metrics and step is not None:
            metrics["epoch"] = step + 1
    return found[0], found[1]


def _environment(run: "Run") -> dict[str, str]:
    tags = run.data.tags
    found = {name: tags[tag] for name, tag in TAGS.items() if tag in tags}
    found |= {"commit": found["commit"][:10]} if "commit" in found else {}
    versions = {name: tags[name] for name in sorted(tags) if name.startswith(VERSION)}
    found |= {name.removeprefix(VERSION): version for name, version in versions.items()}
    for entry in run.inputs.dataset_inputs if run.inputs else ():
        found["data"] = f"{entry.dataset.name} {entry.dataset.digest[:8]}"
    return found


def _sources(store: Store, run: "Run") -> dict[str, str]:
    try:
        folder = store.artifact(run, "spec")
    except HarnessError:
        return {}
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.py"))}
    spec = Path(run.data.tags.get(SPEC_PATH, "")).name
    return {name: files[name].read_text() for name in sorted(files, key=lambda name: (name != spec, name))}


def _differing(values: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    names = dict.fromkeys(itertools.chain.from_iterable(values))
    rows = {name: tuple(value.get(name) for value in values) for name in names}
    return {name: row for name, row in rows.items() if any(value != row[0] for value in row)}


def _code_changes(first: Side, second: Side) -> list[str]:
    parts = ({"code": side.code, "values": {}, "rest": {}, "private": None} for side in (first, second))
    return differences(*parts) if first.code and second.code else []


def _pairs(sides: Sequence[Side]) -> tuple[Pair, ...]:
    """The best run with each other one. "Best" is by the new measurement, or else by the objective."""
    if len(sides) == 2:
        return (compare_pair(*sides),)

    def rank(side: Side) -> tuple[bool, float]:
        if side.measured is None:
            return False, 0.0
        return True, side.measured.mean if side.measured.measure == "accuracy" else -side.measured.mean

    best = max(sides, key=rank)
    level = 1 - (1 - LEVEL) / (len(sides) - 1)
    return tuple(compare_pair(best, side, level=level) for side in sides if side is not best)
