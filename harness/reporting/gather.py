"""The content of a report: the runs of a study, their distinct results, and what the study says about them."""

import ast
import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError
from harness.reporting.pages.drawing import shown
from harness.reporting.pages.epochs import Trees, build_trees
from harness.reporting.pages.explore import Explored
from harness.reporting.pages.trust import Trust, is_share
from harness.reporting.pages.values import ENOUGH, Range
from harness.reporting.pages.ways import Way, find_results, find_ways
from harness.tracking.importances import Importance, estimate_importances
from harness.tracking.journal import open_database, open_study, read_journal
from harness.tracking.runs import RunRecord, counts, list_runs, rank, read_histories
from harness.tracking.store import CLASS_ACCURACY, Store
from harness.tracking.studies import ALL
from harness.tracking.tags import CONFIRM, DIRECTION, OBJECTIVE

if TYPE_CHECKING:
    from mlflow.entities import Run

MOST_PATHS = 2_000  # runs that are in the tree of epochs


@dataclass(frozen=True, kw_only=True, eq=False)
class Facts:
    """What the store has of a study. `records` are its runs, the best first; `ways` are their distinct results."""

    name: str
    objective: str
    maximize: bool
    every: list[RunRecord]  # of all studies
    records: list[RunRecord]
    trials: list[RunRecord]  # in the order of their numbers
    confirming: list[RunRecord]  # repeat the best run with other seeds
    ways: list[Way]
    searched: list[str]  # hyperparameters that vary, in the order of the search space
    ranges: Mapping[str, Range]
    trees: Trees
    told_apart: dict[str, list[str]]  # values that distinguish a recipe, in words
    importances: list[Importance] | str  # or why there is no estimate
    best: RunRecord | None
    best_run: "Run | None"
    class_accuracy: Mapping[str, Sequence[float]]  # of the best run, by class, a value an epoch
    first_epoch: int  # of these, from 1
    trust: Trust
    idle: list[str]  # hyperparameters with a range that did nothing in the best result
    identities: Mapping[int, Mapping[str, Any]]  # of each sweep, where its study is known

    @cached_property
    def ended(self) -> list[Way]:
        """The ways with a value of the objective, the best first."""
        return [way for way in self.ways if counts(way.record, self.objective)]

    @cached_property
    def results(self) -> list[Way]:
        """One way for each distinct result, the best first."""
        return [ways[0] for ways in find_results(self.ended)]

    @cached_property
    def ranked(self) -> list[list[RunRecord]]:
        """The trials of each distinct result, the best result first."""
        found = [[r for way in ways for r in way.runs if r.trial is not None] for ways in find_results(self.ended)]
        return [trials for trials in found if trials]

    @cached_property
    def explored(self) -> Explored:
        return Explored(
            results=find_results(self.ways),
            names=self.searched,
            objective=self.objective,
            maximize=self.maximize,
            trust=self.trust,
            has_sweeps=len({record.sweep for record in self.records}) > 1,
        )


def gather(store: Store, name: str, *, study: str | int | None = None, is_live: bool = False) -> Facts:
    """Reads from MLflow and Optuna what a report shows. `is_live` leaves out what takes seconds.

    Raises `HarnessError` if there are no runs.
    """
    experiment = store.client.get_experiment(store.experiment_id(name))
    objective = experiment.tags.get(OBJECTIVE, "val_accuracy")
    direction = experiment.tags.get(DIRECTION, "maximize")
    every = list_runs(store, name, study=ALL)
    if not every:
        raise HarnessError(f"{name} has no runs yet; start with: python -m harness sweep SPEC")
    records = list_runs(store, name, study=study)
    searching = [record for record in records if record.kind != CONFIRM]
    ranked = rank(searching, objective, direction)
    best = next((record for record in ranked if counts(record, objective)), None)
    best_run = None if best is None else store.client.get_run(best.run_id)
    histories = read_histories(store, name, searching)
    ways = find_ways(ranked, histories)
    trials = sorted((r for r in records if r.study), key=lambda r: (r.sweep, r.trial or 0))
    studies = _studies(store, name)
    uids = {record.study for record in trials}
    journal = studies.get(next(iter(uids))) if len(uids) == 1 else None
    ranges = _ranges(journal)
    rates = [(record, list(histories.get(record.run_id, {}).get("lr", ()))) for record in searching[:MOST_PATHS]]
    numbers = {record.study: record.sweep for record in every if record.study}
    first_epoch, class_accuracy = (1, {}) if best_run is None else _class_accuracy(store, best_run)
    return Facts(
        name=name,
        objective=objective,
        maximize=direction == "maximize",
        every=every,
        records=records,
        trials=trials,
        confirming=[r for r in records if r.kind == CONFIRM and best is not None and r.confirms == best.run_id],
        ways=ways,
        searched=_varied(searching, journal),
        ranges=ranges,
        trees=build_trees(rates),
        told_apart=_told_apart(store, searching),
        importances="Estimated in a report that is not live." if is_live else _importances(ways, journal, objective),
        best=best,
        best_run=best_run,
        class_accuracy=class_accuracy,
        first_epoch=first_epoch,
        trust=Trust(
            images=_validation_images(best_run) if is_share(objective) else None,
            best=None if best is None else best.value,
        ),
        idle=[name for name in _idle(store, ways, objective) if name in ranges],
        identities={
            numbers[uid]: json.loads(found.user_attrs.get("identity", "{}"))
            for uid, found in studies.items()
            if uid in numbers
        },
    )


def data_of(run: "Run | None") -> dict[str, Any]:
    """The data that a run was trained on: its description, with `name` and `digest`; empty if it is not known."""
    found = run.inputs.dataset_inputs if run is not None and run.inputs else []
    if not found:
        return {}
    dataset = found[0].dataset
    try:
        profile = json.loads(dataset.profile or "{}")
    except json.JSONDecodeError:  # MLflow cuts a long one
        profile = {}
    return {**profile, "name": dataset.name, "digest": dataset.digest}


def _class_accuracy(store: Store, run: "Run") -> tuple[int, dict[str, list[float]]]:
    """The accuracy of each class in each epoch of a run, and which epoch is the first; older runs have none."""
    try:
        heads, *rows = csv.reader(store.artifact(run, CLASS_ACCURACY).read_text().splitlines())
        values = [[float(text or "nan") for text in row] for row in rows]
        return int(values[0][0]), {name: [row[n + 1] for row in values] for n, name in enumerate(heads[1:])}
    except (HarnessError, OSError, ValueError, IndexError):  # none, or edited: the rest of the report stands
        return 1, {}


def _validation_images(run: "Run | None") -> int | None:
    count = data_of(run).get("validation")
    return count if isinstance(count, int) and count > 0 else None


def _studies(store: Store, name: str) -> dict[str, Any]:
    """Optuna's studies of an experiment by their ids, if a sweep has stored them here."""
    url = os.environ.get("HARNESS_STUDY_STORAGE")
    if not url and not store.journal.exists():
        return {}
    storage = open_database(url) if url else read_journal(store.journal)
    found: dict[str, Any] = {}
    for summary in storage.get_all_studies():
        if summary.study_name.partition("~")[0] == name and (opened := open_study(storage, summary.study_name)):
            found[opened.user_attrs.get("uid", "")] = opened
    return found


def _varied(records: Sequence[RunRecord], journal: Any) -> list[str]:
    """The hyperparameters that are not the same in all runs, in the order of the search space; all if none is."""
    searched = list(journal.trials[0].params) if journal is not None and journal.trials else []
    names = list(dict.fromkeys((*searched, *(name for record in records for name in record.params))))
    return [n for n in names if len({repr(record.params.get(n)) for record in records}) > 1] or searched or names


def _ranges(journal: Any) -> dict[str, Range]:
    """The ranges of the search space whose values have an order, as the study's identity describes them."""
    identity = json.loads(journal.user_attrs.get("identity", "{}")) if journal is not None else {}
    ranges = {}
    for name, text in identity.get("search space", {}).items():
        try:
            call = ast.parse(text, mode="eval").body
            found = {k.arg: ast.literal_eval(k.value) for k in call.keywords} if isinstance(call, ast.Call) else {}
        except (ValueError, SyntaxError):  # options that are objects
            continue
        ends = found.get("options") or [found[end] for end in ("low", "high") if end in found]
        if ends and all(isinstance(value, int | float) and not isinstance(value, bool) for value in ends):
            ranges[name] = Range(low=min(ends), high=max(ends))
    return ranges


def _importances(ways: Sequence[Way], journal: Any, objective: str) -> list[Importance] | str:
    counted = [way for way in ways if counts(way.record, objective) and way.record.trial is not None]
    results = [[record for way in found for record in way.runs] for found in find_results(counted)]
    ended = [found[0] for found in results]
    if journal is None:
        return "Needs the trials of one study."
    names = [
        n for n in dict.fromkeys(p for r in ended for p in r.params) if len({repr(r.params.get(n)) for r in ended}) > 1
    ]
    needed = ENOUGH * max(1, len(names))
    if len(ended) < needed:
        return (
            f"Too early: there {'is' if len(ended) == 1 else 'are'} {len(ended) or 'no'} distinct result"
            f"{'s' * (len(ended) != 1)} over {len(names)} hyperparameters, and some {needed} are needed before an "
            "estimate is more than chance. Runs that are equal up to their best epoch are one result."
        )
    found = estimate_importances(
        journal, [[record.trial for record in same if record.trial is not None] for same in results]
    )
    return found or "All results have the same value."


def _idle(store: Store, ways: Sequence[Way], objective: str) -> list[str]:
    """The hyperparameters that only the scheduler reads, if it had done nothing up to the best run's best epoch."""
    best = next((way for way in ways if counts(way.record, objective)), None)
    if best is None or best.record.best_epoch is None or any(epoch < best.record.best_epoch for epoch in best.changes):
        return []
    own = _values_of(store, best.record.recipe)
    return [] if own is None else [name for name in best.record.params if name not in own]


def _values_of(store: Store, recipe: str) -> Mapping[str, Any] | None:
    """The values that belong to a recipe; None where they are not known here."""
    file: Path = store.paths / recipe / "recipe.json"
    return dict(json.loads(file.read_text())["values"]) if recipe and file.is_file() else None


def _told_apart(store: Store, records: Sequence[RunRecord]) -> dict[str, list[str]]:
    """For each recipe, the hyperparameters that belong to it and are not the same in all runs."""
    every = {name: None for record in records for name in record.params}
    varied = [name for name in every if len({repr(record.params.get(name)) for record in records}) > 1]
    told = {}
    for record in records:
        if record.recipe not in told:
            found = _values_of(store, record.recipe)
            own = every if found is None else found
            told[record.recipe] = [f"{name} {shown(record.params.get(name))}" for name in varied if name in own]
    return told
