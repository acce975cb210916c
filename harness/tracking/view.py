"""How MLflow's pages show an experiment: which columns, which order, which charts. MLflow keeps it as a tag."""

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from harness.tracking.store import CONFIRM, DIRECTION, KIND, OBJECTIVE, STATUS, SUMMARY, Store

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Run

KEY = "harness"
TAG = f"mlflow.sharedViewState.{KEY}"  # what MLflow writes when a person shares a view
MOST_COMPARED = 20
MOST_BESIDE = 10  # runs side by side: each is a column


def links(store: Store, address: str, experiment: str | None) -> dict[str, str]:
    """Addresses of MLflow's pages about an experiment, by what they show; of all of them where it is None.

    Sets the experiment's view up to date on the way. Raises `HarnessError` where it has no runs.
    """
    address = address.rstrip("/")
    if experiment is None:
        return {"experiments": f"{address}/#/experiments?workflowType=machine_learning"}
    found = store.client.get_experiment(store.experiment_id(experiment))
    runs = _best_runs(store, found)
    _set_view(store, found, runs)
    number = found.experiment_id
    list_of_runs = f"{address}/#/experiments/{number}/runs?workflowType=machine_learning&viewStateShareKey={KEY}"
    pages = {"compare": f"{list_of_runs}&compareRunsMode=CHART", "runs": list_of_runs}
    finished = [run.info.run_id for run in runs if "objective" in run.data.metrics][:MOST_BESIDE]
    if len(finished) > 1:
        pages["side by side"] = (
            f"{address}/#/compare-runs?runs={_quoted(finished)}&experiments={_quoted([number])}"
            "&workflowType=machine_learning"
        )
    if finished:
        pages["best run"] = f"{address}/#/experiments/{number}/runs/{finished[0]}?workflowType=machine_learning"
    return pages


def build_view(
    params: Sequence[str], metrics: Sequence[str], *, objective: str, direction: str, uid: str
) -> dict[str, Any]:
    """The state of the run list and its charts, as MLflow's page keeps it.

    The best run comes first; columns are the outcome and the hyperparameters; the first charts are the
    hyperparameters against the objective, then curves. `uid` tells the charts of experiments apart.
    """
    outcome = [name for name in (f"best_{objective}", "reused_epochs") if name in metrics]
    curves = [name for name in (objective, "val_loss", "train_loss", "lr") if name in metrics]
    more = [name for name in metrics if name.startswith(("train_", "val_")) and name not in curves]
    section = _uuid(uid, "section")
    charts: list[dict[str, Any]] = [
        {
            "type": "PARALLEL",
            "uuid": _uuid(uid, "parallel"),
            "metricSectionId": section,
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
            {"uuid": section, "name": "Training", "display": True, "isReordered": False, "isGenerated": False},
        ],
        "isAccordionReordered": True,  # what is ours stays on top
    }


def _best_runs(store: Store, experiment: "Experiment") -> list["Run"]:
    """Runs of an experiment, the best first; those without an objective last."""
    order = "ASC" if experiment.tags.get(DIRECTION) == "minimize" else "DESC"
    found = store.client.search_runs(
        [experiment.experiment_id],
        max_results=2 * MOST_COMPARED,
        order_by=[f"metrics.objective {order}", "attributes.start_time ASC"],
    )
    others = (SUMMARY, CONFIRM)  # not of the search
    return [run for run in found if run.data.tags.get(KIND) not in others][:MOST_COMPARED]


def _set_view(store: Store, experiment: "Experiment", runs: Sequence["Run"]) -> None:
    names: Mapping[str, Any] = {name: None for run in runs for name in run.data.params}
    metrics = {name: None for run in runs for name in run.data.metrics}
    view = build_view(
        _varied(runs, list(names)),
        sorted(metrics),
        objective=experiment.tags.get(OBJECTIVE, "val_accuracy"),
        direction=experiment.tags.get(DIRECTION, "maximize"),
        uid=experiment.experiment_id,
    )
    text = json.dumps(view, separators=(",", ":"))
    if experiment.tags.get(TAG) != text:
        store.client.set_experiment_tag(experiment.experiment_id, TAG, text)


def _varied(runs: Sequence["Run"], names: Sequence[str]) -> list[str]:
    """The params that differ between runs; all where none does."""
    differing = [name for name in names if len({run.data.params.get(name) for run in runs}) > 1]
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


def _quoted(values: Sequence[str]) -> str:
    return quote(json.dumps(list(values), separators=(",", ":")))
