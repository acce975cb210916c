"""How MLflow's pages show an experiment: columns, order and charts. MLflow keeps this in a tag."""

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.tracking.runs import RunRecord, counts, list_runs
from harness.tracking.store import Store
from harness.tracking.studies import ALL
from harness.tracking.tags import CONFIRM, DIRECTION, KIND, OBJECTIVE, SHARED_VIEW, STATUS, STUDY, SUMMARY

if TYPE_CHECKING:
    from mlflow.entities import Experiment

KEY = "harness"
TAG = f"{SHARED_VIEW}{KEY}"  # MLflow's own tag for a shared view
MOST_COMPARED = 20


def links(store: Store, address: str, experiment: str | None, *, study: str | int | None = None) -> dict[str, str]:
    """Addresses of MLflow's pages for a study of an experiment, by what they show; for all experiments if it is None.

    `study` is as in `tracking.studies`. Also updates the experiment's view. Raises `HarnessError` if it has no runs.
    """
    address = address.rstrip("/")
    if experiment is None:
        return {"experiments": f"{address}/#/experiments?workflowType=machine_learning"}
    found = store.client.get_experiment(store.experiment_id(experiment))
    records = list_runs(store, experiment, study=study)
    _set_view(store, found, records, _filter(list_runs(store, experiment, study=ALL), records))
    number = found.experiment_id
    list_of_runs = f"{address}/#/experiments/{number}/runs?workflowType=machine_learning&viewStateShareKey={KEY}"
    pages = {"compare": f"{list_of_runs}&compareRunsMode=CHART", "runs": list_of_runs}
    best = next((record for record in records if counts(record, _objective(found))), None)
    if best is not None:
        pages["best run"] = f"{address}/#/experiments/{number}/runs/{best.run_id}?workflowType=machine_learning"
    return pages


def build_view(
    params: Sequence[str], metrics: Sequence[str], *, objective: str, direction: str, uid: str
) -> dict[str, Any]:
    """The state of the run list and its charts, in the form of MLflow's page.

    The best run is first. The columns are the outcome and the hyperparameters. The charts show the hyperparameters
    against the objective, then the curves. `uid` makes the charts' ids differ between experiments.
    """
    outcome = [name for name in (f"best_{objective}", "reused_epochs") if name in metrics]
    curves = [name for name in (objective, "val_loss", "train_loss", "lr") if name in metrics]
    more = [name for name in metrics if name.startswith(("train_", "val_")) and name not in curves]
    wide, section = _uuid(uid, "wide"), _uuid(uid, "section")
    charts: list[dict[str, Any]] = [
        {
            "type": "PARALLEL",
            "uuid": _uuid(uid, "parallel"),
            "metricSectionId": wide,
            "displayName": f"Hyperparameters and {objective}",
            "selectedParams": list(params),
            "selectedMetrics": ["objective"],
            "showAllRuns": True,
            "runsCountToCompare": 1000,
            "isGenerated": False,
            "deleted": False,
        },
        *(_curve(name, uid, section) for name in (*curves, *more)),
    ]
    return {
        "orderByKey": "metrics.`objective`",
        "orderByAsc": direction == "minimize",
        "selectedColumns": [
            *(f"metrics.`{name}`" for name in outcome),
            *(f"params.`{name}`" for name in params),
            f"tags.`{STATUS}`",
        ],
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunCharts": charts,
        "compareRunSections": [
            _section(wide, "Hyperparameters", columns=1),  # axes need the whole width
            _section(section, "Training", columns=3),
        ],
        "isAccordionReordered": True,  # our charts stay on top
    }


def _section(uid: str, name: str, *, columns: int) -> dict[str, Any]:
    return {
        "uuid": uid,
        "name": name,
        "columns": columns,
        "display": True,
        "isReordered": False,
        "isGenerated": False,
    }


def _objective(experiment: "Experiment") -> str:
    return str(experiment.tags.get(OBJECTIVE, "val_accuracy"))


def _filter(every: Sequence[RunRecord], records: Sequence[RunRecord]) -> str:
    """MLflow's filter for the trials of the chosen study, if there are several; without the run `summary`."""
    meant = {record.study for record in records if record.study}
    if len(meant) == 1 < len({record.study for record in every if record.study}):
        return f"tags.`{STUDY}` = '{meant.pop()}'"
    return f"tags.`{KIND}` != '{SUMMARY}'"


def _set_view(store: Store, experiment: "Experiment", records: Sequence[RunRecord], search_filter: str) -> None:
    searched = [record for record in records if record.kind != CONFIRM][:MOST_COMPARED]
    names: Mapping[str, Any] = {name: None for record in searched for name in record.params}
    metrics = {name: None for record in searched for name in record.metrics}
    view = build_view(
        _varied(searched, list(names)),
        sorted(metrics),
        objective=_objective(experiment),
        direction=experiment.tags.get(DIRECTION, "maximize"),
        uid=experiment.experiment_id,
    )
    text = json.dumps(view | {"searchFilter": search_filter}, separators=(",", ":"))
    if experiment.tags.get(TAG) != text:
        store.client.set_experiment_tag(experiment.experiment_id, TAG, text)


def _varied(records: Sequence[RunRecord], names: Sequence[str]) -> list[str]:
    """The params that differ between runs; all params if none differs."""
    differing = [name for name in names if len({repr(record.params.get(name)) for record in records}) > 1]
    return differing or list(names)


def _curve(metric: str, uid: str, section: str) -> dict[str, Any]:
    return {
        "type": "LINE",
        "uuid": _uuid(uid, metric),
        "metricSectionId": section,
        "displayName": metric,
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "scaleType": "log" if metric == "lr" else "linear",
        "xAxisScaleType": "linear",
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "range": {},
        "lineSmoothness": 0,
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
        "runsCountToCompare": MOST_COMPARED,
        "isGenerated": False,
        "deleted": False,
    }


def _uuid(uid: str, name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"harness/{uid}/{name}"))
