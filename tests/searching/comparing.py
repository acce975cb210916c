"""What a store holds, as plain values that two sweeps must agree on to the last bit."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from harness.tracking.journal import open_journal
from harness.training.state import same_bits

TIMED = ("epoch_seconds",)


def read_store(store: Path | str, experiment: str = "small") -> dict[str, Any]:
    """Every run by name: its status, params, tags that matter, and each metric's points, in order of steps.

    A store is a folder, or the address of a tracking server.
    """
    client, runs = _runs(store, experiment)
    names = {run.info.run_id: run.info.run_name for run in runs}
    assert len(set(names.values())) == len(runs), "two runs of one name"
    read = {}
    for run in runs:
        points = {
            name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
            if not name.startswith("system/")  # the machine's, not the training's
        }
        for name, listed in points.items():
            steps = [step for step, _ in listed]
            assert len(steps) == len(set(steps)), f"{run.info.run_name}: {name} was logged twice in {sorted(steps)}"
        assert "harness.reused_from" in run.data.tags, f"{run.info.run_name} did not come to its end: {run.data.tags}"
        reused_from = run.data.tags["harness.reused_from"].split(", ")
        read[run.info.run_name] = {
            "status": run.info.status,
            "outcome": run.data.tags["harness.status"],
            "params": run.data.params,
            "recipe": run.data.tags["harness.recipe"],
            "reused_from": [names.get(run_id, run_id) for run_id in reused_from],
            "metrics": {name: sorted(listed, key=repr) for name, listed in points.items() if name not in TIMED},
            "steps": {name: sorted(step for step, _ in points[name]) for name in TIMED},
        }
        with _artifact(client, run, "learning_rate_changes.csv") as table:
            read[run.info.run_name]["learning rates"] = table.read_text()
        with _artifact(client, run, "class_accuracy.csv") as table:
            read[run.info.run_name]["class accuracy"] = table.read_text() if table.exists() else None
    return read


def read_study(folder: Path, name: str = "small") -> list[dict[str, Any]]:
    """Every trial of the study: its state, params, value and reports."""
    study = optuna.load_study(study_name=name, storage=open_journal(folder / "optuna.log"))
    return [
        {
            "number": trial.number,
            "state": trial.state.name,
            "params": trial.params,
            "values": json.loads(trial.user_attrs["values"]),
            "value": trial.value,
            "reports": trial.intermediate_values,
        }
        for trial in study.get_trials()
    ]


def assert_same_sweeps(left: Path, right: Path) -> None:
    """The runs, the trials and the final states of two stores, bit for bit."""
    assert read_store(left) == read_store(right)
    assert read_study(left) == read_study(right)
    assert_same_checkpoints(left, right)


def assert_same_checkpoints(left: Path | str, right: Path | str, experiment: str = "small") -> None:
    """The final states of two stores, run by run, bit for bit."""
    ours, theirs = _checkpoints(left, experiment), _checkpoints(right, experiment)
    assert ours.keys() == theirs.keys()
    assert ours
    for name, a in ours.items():
        for key in ("state_dict", "optimizer", "scheduler", "epoch", "params", "metrics", "rng", "node"):
            assert same_bits(a[key], theirs[name][key]), f"{name}: {key} differs"


def _checkpoints(store: Path | str, experiment: str) -> dict[str, dict[str, Any]]:
    client, runs = _runs(store, experiment)
    found = {}
    for run in runs:
        with _artifact(client, run, "checkpoints") as folder:
            for path in sorted(folder.glob("*.pth.tar")):
                found[f"{run.info.run_name}/{path.name}"] = torch.load(path, weights_only=True)
    return found


def _runs(store: Path | str, experiment: str) -> tuple[MlflowClient, list[Run]]:
    client = MlflowClient(store if isinstance(store, str) else f"sqlite:///{store / 'mlflow.db'}")
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return client, list(client.search_runs([found.experiment_id]))


@contextmanager
def _artifact(client: MlflowClient, run: Run, path: str) -> Iterator[Path]:
    if run.info.artifact_uri.startswith("file://"):
        yield Path(run.info.artifact_uri.removeprefix("file://")) / path
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(client.download_artifacts(run.info.run_id, path, folder))
