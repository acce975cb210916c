"""Runs out of MLflow: finding one, listing them, as plain records and as pandas."""

import ast
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import FAILED, HarnessError, did_you_mean
from harness.experiment import direction_of
from harness.spec import experiment_name
from harness.tracking.database import Found, find_experiment, read_best, read_runs
from harness.tracking.store import CONFIRM, DIRECTION, KIND, OBJECTIVE, REASON, RUNNING, STATUS, SUMMARY, Store

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import Run

PAGE = 1000
SYSTEM = "system/"  # what MLflow calls metrics of the machine


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run as people compare them. `value` is that of its `objective`, None while it has none."""

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
    study: str = ""  # of a trial: what tells its study from earlier ones of the same spec
    trial: int | None = None

    def as_json(self) -> dict[str, Any]:
        """The document that `--json` prints."""
        names = ("run_id", "name", "status", "value", "params", "metrics")
        return {name: getattr(self, name) for name in names}


def list_runs(store: Store, experiment: str, *, sort: str | None = None) -> list[RunRecord]:
    """All runs of an experiment, the best first, or by any metric, the better end first.

    Runs of one value stand in the order in which they started; those without one, with that of another
    objective, or that only repeat a run with another seed, come last. Raises `HarnessError` where no run has
    the metric that is asked for.
    """
    experiment_id, tags = _find_experiment(store, experiment)
    records = [to_record(run) for run in _read_runs(store, experiment_id) if run.tags.get(KIND) != SUMMARY]
    objective = tags.get(OBJECTIVE, "val_accuracy")
    direction = tags.get(DIRECTION, "maximize")
    if sort is None:
        keys = {r.run_id: r.value if r.objective == objective and r.kind != CONFIRM else None for r in records}
    else:
        keys = {record.run_id: record.metrics.get(sort) for record in records}
        if records and all(key is None for key in keys.values()):
            known = sorted({name for record in records for name in record.metrics})
            raise HarnessError(
                f"--sort {sort}: no run has this metric.{did_you_mean(sort, known)} There are: {', '.join(known)}."
            )
        direction = direction if sort == objective else direction_of(sort)
    sign = -1 if direction == "maximize" else 1

    def order(record: RunRecord) -> tuple[bool, float]:
        key = keys[record.run_id]
        return (True, 0.0) if key is None or math.isnan(key) else (False, sign * key)

    return sorted(records, key=order)


def best_record(store: Store, experiment: str) -> RunRecord:
    """The finished run with the best objective; of equal ones the first.

    Runs that only repeat one with another seed do not count: the best of them is the luckiest seed.
    """
    experiment_id, tags = _find_experiment(store, experiment)
    objective = tags.get(OBJECTIVE, "val_accuracy")
    is_up = tags.get(DIRECTION) != "minimize"
    if store.is_local:
        required, excluded = {OBJECTIVE: objective}, {KIND: CONFIRM}
        best = read_best(store.database, experiment_id, maximize=is_up, required=required, excluded=excluded)
    else:
        runs = store.client.search_runs(
            [experiment_id],
            f"attributes.status = 'FINISHED' AND metrics.objective > -1e300 AND tags.\"{OBJECTIVE}\" = '{objective}' "
            f"AND tags.\"{KIND}\" != '{CONFIRM}'",
            max_results=1,
            order_by=[f"metrics.objective {'DESC' if is_up else 'ASC'}", "attributes.start_time ASC"],
        )
        best = Found.of(runs[0]) if runs else None
    if best is None:
        raise HarnessError(f"{experiment} has no finished run yet.", exit_code=FAILED)
    return to_record(best)


def find_best(store: Store, experiment: str) -> "Run":
    """The best run (see `best_record`) as MLflow has it."""
    return store.client.get_run(best_record(store, experiment).run_id)


def find_run(store: Store, text: str, experiment: str | None = None) -> "Run":
    """The run that a person means: a run id, a unique prefix of one, or `best` of an experiment."""
    from mlflow.exceptions import MlflowException

    if text == "best":
        return find_best(store, experiment or _only_experiment(store))
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
        raise HarnessError(f"{len(found)} run ids begin with '{text}' ({some}); give more of it.")
    return found[0]


def to_record(found: "Run | Found") -> RunRecord:
    """A run of MLflow's as a record."""
    run = found if isinstance(found, Found) else Found.of(found)
    tags = run.tags
    outcome = tags.get(STATUS, run.status).upper()
    return RunRecord(
        run_id=run.run_id,
        name=run.name,
        status=run.status if run.status == RUNNING else outcome,
        value=run.metrics.get("objective"),
        params=_typed_params(run.params),
        metrics={name: value for name, value in run.metrics.items() if not name.startswith(SYSTEM)},
        objective=tags.get(OBJECTIVE, ""),
        recipe=tags.get("harness.recipe", ""),
        reason=tags.get(REASON),
        kind=tags.get(KIND, ""),
        study=tags.get("harness.study", ""),
        trial=int(tags["harness.trial"]) if "harness.trial" in tags else None,
    )


def typed_params(run: "Run") -> dict[str, Any]:
    """The params of a run as numbers, booleans and tuples where they are ones; MLflow keeps text."""
    return _typed_params(run.data.params)


def runs(spec: str | Path, *, store: str | Path = "mlruns", demo: bool = False) -> "pd.DataFrame":
    """The runs of a spec (its path, or its name) as a DataFrame, the best first.

    One row a run: `run_id`, `name`, `status`, `value`, then a column for each param and each metric's last
    value. Where a param and a metric share a name, such as `lr`, the metric is `last_lr`.
    Raises `HarnessError` where the store has none.
    """
    import pandas as pd

    records = list_runs(Store(Path(store)), experiment_name(spec, is_demo=demo))
    params = {name for record in records for name in record.params}
    rows = [
        {"run_id": r.run_id, "name": r.name, "status": r.status, "value": r.value, **r.params}
        | {f"last_{name}" if name in params else name: value for name, value in r.metrics.items()}
        for r in records
    ]
    return pd.DataFrame(rows)


def history(run_id: str, *, store: str | Path = "mlruns") -> "pd.DataFrame":
    """The curves of a run as a DataFrame: one row an epoch, one column a metric.

    `run_id` is a run id or a unique prefix of one. Raises `HarnessError` where there is none.
    """
    opened = Store(Path(store))
    return read_curves(opened, find_run(opened, run_id))


def read_curves(store: Store, run: "Run") -> "pd.DataFrame":
    """The curves of a run of an open store: see `history`."""
    import pandas as pd

    columns: Mapping[str, dict[int, float]] = {
        name: {metric.step: metric.value for metric in store.client.get_metric_history(run.info.run_id, name)}
        for name in run.data.metrics
        if name.startswith(("train_", "val_")) or name in ("lr", "epoch_seconds")
    }
    return pd.DataFrame(columns).rename_axis("epoch").sort_index()


def _only_experiment(store: Store) -> str:
    names = store.experiment_names()
    if len(names) != 1:
        raise HarnessError(f"'best' of which spec? {store} has {', '.join(names) or 'none'}; name one.")
    return names[0]


def _find_experiment(store: Store, name: str) -> tuple[str, Mapping[str, str]]:
    """The id and the tags of an experiment."""
    found = find_experiment(store.database, name) if store.is_local else None
    if found is None:  # MLflow says what is wrong, or brings a deleted one back
        experiment = store.client.get_experiment(store.experiment_id(name))
        found = str(experiment.experiment_id), experiment.tags
    return found


def _read_runs(store: Store, experiment_id: str) -> list[Found]:
    """All runs of an experiment, the oldest first."""
    if store.is_local:
        return read_runs(store.database, experiment_id)
    found: list[Found] = []
    token = None
    while True:
        page = store.client.search_runs(
            [experiment_id], max_results=PAGE, page_token=token, order_by=["attributes.start_time ASC"]
        )
        found += [Found.of(run) for run in page]
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
