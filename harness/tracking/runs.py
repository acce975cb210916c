"""Finds and lists the runs in MLflow, as plain records or as a DataFrame."""

import ast
import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from harness.errors import FAILED, HarnessError, did_you_mean
from harness.experiment import direction_of
from harness.notebook import html_table, shown
from harness.tracking.database import RunRow, find_experiment, read_run, read_runs
from harness.tracking.database import read_histories as read_histories_of
from harness.tracking.database import read_state as read_state_of
from harness.tracking.store import FINISHED, RUNNING, Store
from harness.tracking.studies import choose_study, number_runs
from harness.tracking.tags import (
    COMPARABLE,
    CONFIRM,
    CONFIRMS,
    DIRECTION,
    KIND,
    OBJECTIVE,
    REASON,
    RECIPE,
    STATUS,
    STUDY,
    SUMMARY,
    SWEEP,
    TRIAL,
)

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import Run

PAGE = 1000
SYSTEM = "system/"  # MLflow's prefix for metrics of the machine
MOST_ASKED = 200  # runs whose curves a server is asked for at once


@dataclass(frozen=True, kw_only=True, repr=False)
class RunRecord:
    """One run, as people compare runs. `value` is the value of its `objective`, None while it has none.

    `test` holds the measures of the test part if they were asked for, and `notes` a sentence about them.
    """

    run_id: str
    name: str
    status: str
    value: float | None
    params: dict[str, Any]
    metrics: dict[str, float]
    objective: str
    recipe: str
    reason: str | None
    kind: str = ""  # "trial", "train" or "confirm"
    study: str = ""  # of a trial: the id of its study
    trial: int | None = None
    sweep: int = 0  # the number of its study among those of the spec, from 1; 0: no study
    started: int = 0  # milliseconds since 1970
    ended: int = 0  # the same; 0 while it runs
    comparable: str = ""  # a digest of its code and data
    confirms: str = ""  # the id of the run that it repeats with another seed
    test: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def best_epoch(self) -> int | None:
        """The epoch with the best objective; the first one is 1."""
        found = self.metrics.get("best_epoch")
        return None if found is None else round(found)

    @property
    def date(self) -> str:
        """When it started, in local time."""
        return datetime.fromtimestamp(self.started / 1000).strftime("%Y-%m-%d %H:%M") if self.started else ""

    def as_json(self) -> dict[str, Any]:
        """The document that `--json` prints."""
        names = ("run_id", "name", "status", "value", "params", "metrics")
        return {name: getattr(self, name) for name in names}

    def __repr__(self) -> str:
        params = ", ".join(f"{name}={shown(value)}" for name, value in self.params.items())
        at = "" if self.best_epoch is None else f" at epoch {self.best_epoch}"
        value = "no value yet" if self.value is None else f"{self.objective} {self.value:.4f}{at}"
        tested = "".join(f", {name} {value:.4f}" for name, value in self.test.items())
        return f"{self.name} ({self.run_id[:8]}) {self.status.lower()}: {value}{tested}; {params}"

    def _repr_html_(self) -> str:
        rows = [(name, value) for group in (self.params, self.metrics, self.test) for name, value in group.items()]
        return html_table(["", ""], rows, note="\n".join((repr(self).partition(";")[0], *self.notes)))


def list_runs(
    store: Store, experiment: str, *, study: str | int | None = None, sort: str | None = None
) -> list[RunRecord]:
    """The runs of a study of an experiment, the best first; `sort` names a metric to sort by instead.

    `study` is a study's number or name, None for the newest one, or `all`: see `tracking.studies`. Runs with equal
    values are in the order in which they started. Three kinds of runs come last: those without a value, with a value of
    another objective, and those of `confirm`. Raises `HarnessError` if no run has the metric `sort`.
    """
    experiment_id, tags = _find_experiment(store, experiment)
    records = choose_study(number_runs(_read_records(store, experiment_id)), study, experiment)
    if sort is None:
        return rank(records, tags.get(OBJECTIVE, "val_accuracy"), tags.get(DIRECTION, "maximize"))
    if records and all(record.metrics.get(sort) is None for record in records):
        known = sorted({name for record in records for name in record.metrics})
        raise HarnessError(
            f"--sort {sort}: no run has this metric.{did_you_mean(sort, known)} There are: {', '.join(known)}."
        )
    is_objective = sort == tags.get(OBJECTIVE, "val_accuracy")
    direction = tags.get(DIRECTION, "maximize") if is_objective else direction_of(sort)
    return _sorted(records, {record.run_id: record.metrics.get(sort) for record in records}, direction)


def rank(records: Sequence[RunRecord], objective: str, direction: str) -> list[RunRecord]:
    """Runs, the best first; runs that do not count come last. This defines "best" everywhere."""
    keys = {record.run_id: record.value if counts(record, objective) else None for record in records}
    return _sorted(records, keys, direction)


def counts(record: RunRecord, objective: str) -> bool:
    """Whether a run can be the best one: it has a value of this objective, and it is not a run of `confirm`.

    `confirm` repeats a run with other seeds; the best of these would only be the luckiest seed.
    """
    return record.value is not None and record.objective == objective and record.kind != CONFIRM


def _sorted(records: Sequence[RunRecord], keys: Mapping[str, float | None], direction: str) -> list[RunRecord]:
    sign = -1 if direction == "maximize" else 1

    def order(record: RunRecord) -> tuple[bool, float]:
        key = keys[record.run_id]
        return (True, 0.0) if key is None or math.isnan(key) else (False, sign * key)

    return sorted(records, key=order)


def best_record(store: Store, experiment: str, *, study: str | int | None = None) -> RunRecord:
    """The best finished run of a study (see `rank`); of equal ones, the one that started first."""
    experiment_id, tags = _find_experiment(store, experiment)
    objective = tags.get(OBJECTIVE, "val_accuracy")
    every = number_runs(_read_records(store, experiment_id, is_brief=True))
    chosen = choose_study(every, study, experiment)
    ranked = rank(chosen, objective, tags.get(DIRECTION, "maximize"))
    best = next((r for r in ranked if r.status == FINISHED and counts(r, objective) and _is_finite(r.value)), None)
    if best is None:
        others = sorted({record.sweep for record in every if counts(record, objective)} - {0})
        newest = f" in sweep {max(record.sweep for record in every)}, the newest" if others and study is None else ""
        hint = f"; for an older one: --study {others[-1]}" if others else ""
        raise HarnessError(f"{experiment} has no finished run yet{newest}{hint}.", exit_code=FAILED)
    if store.is_local:
        whole = to_record(read_run(store.database, best.run_id))
        return dataclasses.replace(whole, sweep=best.sweep)
    return best


def find_best(store: Store, experiment: str, *, study: str | int | None = None) -> "Run":
    """The best run (see `best_record`), as MLflow's object."""
    return store.client.get_run(best_record(store, experiment, study=study).run_id)


def _is_finite(value: float | None) -> bool:
    return value is not None and abs(value) < 1e300  # MLflow turns infinity into the largest float


def find_run(store: Store, text: str, experiment: str | None = None, *, study: str | int | None = None) -> "Run":
    """The run that a text names: a run id, a unique beginning of one, or `best` (of an experiment's study)."""
    from mlflow.exceptions import MlflowException

    if text == "best":
        return find_best(store, experiment or _only_experiment(store), study=study)
    if len(text) == 32:
        try:
            return store.client.get_run(text)
        except MlflowException:
            raise HarnessError(f"{store} has no run {text}.") from None
    if not text or any(character not in "0123456789abcdef" for character in text):
        raise HarnessError(
            f"'{text}' is not a run: give an MLflow run id, the beginning of one, or 'best'. "
            "`python -m harness runs SPEC` lists them."
        )
    ids = [experiment.experiment_id for experiment in store.client.search_experiments()]
    token: str | None = None
    found: list[Run] = []
    while True:
        page = store.client.search_runs(ids, f"attributes.run_id LIKE '{text}%'", max_results=PAGE, page_token=token)
        found += page
        token = page.token
        if not token:
            break
    if not found:
        raise HarnessError(f"{store} has no run whose id begins with '{text}'.")
    if len(found) > 1:
        some = ", ".join(run.info.run_id[: len(text) + 4] for run in found[:3])
        raise HarnessError(f"{len(found)} run ids begin with '{text}' ({some}); write more of the id.")
    return found[0]


def to_record(found: "Run | RunRow") -> RunRecord:
    """The record of an MLflow run."""
    run = found if isinstance(found, RunRow) else RunRow.of(found)
    tags = run.tags
    outcome = tags.get(STATUS, run.status).upper()
    return RunRecord(
        run_id=run.run_id,
        name=run.name,
        status=run.status if run.status == RUNNING else outcome,
        value=run.metrics.get("objective"),
        params=_typed_params(run.params),
        metrics={
            name: value + (name == "best_epoch")  # MLflow's epochs count from 0
            for name, value in run.metrics.items()
            if _is_shown(name, value)
        },
        objective=tags.get(OBJECTIVE, ""),
        recipe=tags.get(RECIPE, ""),
        reason=tags.get(REASON),
        kind=tags.get(KIND, ""),
        study=tags.get(STUDY, ""),
        trial=_whole(tags.get(TRIAL)),
        sweep=_whole(tags.get(SWEEP)) or 0,
        started=run.started,
        ended=run.ended,
        comparable=tags.get(COMPARABLE, ""),
        confirms=tags.get(CONFIRMS, ""),
    )


def _whole(text: str | None) -> int | None:
    """The number in a tag; None if it is no number: tags can be edited."""
    return int(text) if text is not None and text.isdecimal() and len(text) < 10 else None


def _is_shown(name: str, value: float) -> bool:
    """Whether a metric and its value can come from training: metrics can be edited."""
    is_count = name in ("best_epoch", "reused_epochs")
    return not name.startswith(SYSTEM) and not (is_count and not abs(value) < 1e9)


def typed_params(run: "Run") -> dict[str, Any]:
    """The params of a run as numbers, booleans and tuples where possible; MLflow keeps them as text."""
    return _typed_params(run.data.params)


def records_table(records: Sequence[RunRecord]) -> "pd.DataFrame":
    """Runs as a DataFrame, one row each: see `harness.runs`."""
    import pandas as pd

    params = {name for record in records for name in record.params}
    rows = [
        {"run_id": r.run_id, "name": r.name, "status": r.status, "value": r.value, **r.params}
        | {
            f"last_{name}" if name in params else name: value
            for name, value in r.metrics.items()
            if name != "objective"  # which is `value`
        }
        | {"kind": r.kind, "study": r.sweep, "start": datetime.fromtimestamp(r.started / 1000)}
        | {"duration": pd.Timedelta(milliseconds=r.ended - r.started) if r.ended else pd.NaT}
        for r in records
    ]
    ends = ["kind", "study", "start", "duration"]
    table = pd.DataFrame(rows)
    return table[[*(name for name in table.columns if name not in ends), *ends]] if rows else table


def read_curves(store: Store, run: "Run") -> "pd.DataFrame":
    """The curves of a run: one row an epoch, from 1, and one column a metric."""
    import pandas as pd

    columns: Mapping[str, dict[int, float]] = {
        name: {metric.step + 1: metric.value for metric in store.client.get_metric_history(run.info.run_id, name)}
        for name in run.data.metrics
        if is_of_epochs(name)
    }
    return pd.DataFrame(columns).rename_axis("epoch").sort_index()


def read_histories(store: Store, experiment: str, records: Sequence[RunRecord]) -> dict[str, dict[str, list[float]]]:
    """The curves of many runs, by run id: for each metric of the epochs one value an epoch.

    A tracking server is asked for one curve after another, so that only the first `MOST_ASKED` runs have theirs.
    """
    if store.is_local:
        experiment_id, _ = _find_experiment(store, experiment)
        found = read_histories_of(store.database, experiment_id)
        return {record.run_id: found.get(record.run_id, {}) for record in records}
    return {
        record.run_id: {
            name: [metric.value for metric in sorted(store.client.get_metric_history(record.run_id, name), key=_step)]
            for name in record.metrics
            if is_of_epochs(name)
        }
        for record in records[:MOST_ASKED]
    }


def read_state(store: Store, experiment: str) -> str:
    """A digest that changes when something of an experiment was logged."""
    experiment_id, _ = _find_experiment(store, experiment)
    if store.is_local:
        state: object = read_state_of(store.database, experiment_id)
    else:
        state = [(run.run_id, run.status, sorted(run.metrics.items())) for run in _ask_runs(store, experiment_id)]
    return hashlib.sha256(repr(state).encode()).hexdigest()[:16]


def is_of_epochs(name: str) -> bool:
    """Whether a metric has a value for each epoch."""
    return name.startswith(("train_", "val_")) or name in ("lr", "epoch_seconds", "gradient_norm", "update_size")


def _step(metric: Any) -> int:
    return int(metric.step)


def _only_experiment(store: Store) -> str:
    names = store.experiment_names()
    if len(names) != 1:
        raise HarnessError(f"'best' of which spec? {store} has {', '.join(names) or 'none'}; name one.")
    return names[0]


def _find_experiment(store: Store, name: str) -> tuple[str, Mapping[str, str]]:
    """The id and the tags of an experiment."""
    found = find_experiment(store.database, name) if store.is_local else None
    if found is None:  # MLflow says what is wrong, or restores a deleted experiment
        experiment = store.client.get_experiment(store.experiment_id(name))
        found = str(experiment.experiment_id), experiment.tags
    return found


def _read_records(store: Store, experiment_id: str, *, is_brief: bool = False) -> list[RunRecord]:
    """All runs of an experiment, the oldest first; `is_brief` reads only what is needed to choose the best one."""
    found = (
        read_runs(store.database, experiment_id, is_brief=is_brief)
        if store.is_local
        else _ask_runs(store, experiment_id)
    )
    return [to_record(run) for run in found if run.tags.get(KIND) != SUMMARY]


def _ask_runs(store: Store, experiment_id: str) -> list[RunRow]:
    found: list[RunRow] = []
    token = None
    while True:
        page = store.client.search_runs(
            [experiment_id], max_results=PAGE, page_token=token, order_by=["attributes.start_time ASC"]
        )
        found += [RunRow.of(run) for run in page]
        token = page.token
        if not token:
            return found


def _typed_params(params: Mapping[str, str]) -> dict[str, Any]:
    return {name: _typed(text) for name, text in params.items()}


def _typed(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
