"""What a store holds, as plain values that two sweeps must agree on to the last bit."""

import json
from pathlib import Path
from typing import Any

import optuna
import torch
from mlflow import MlflowClient

from harness.sweep.study import open_journal
from harness.training.state import same_bits

TIMED = ("epoch_seconds",)


def read_store(folder: Path, experiment: str = "small") -> dict[str, Any]:
    """Every run by name: its status, params, tags that matter, and each metric's points, in order of steps."""
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs = client.search_runs([found.experiment_id])
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
        reused_from = run.data.tags["harness.reused_from"].split(", ")
        read[run.info.run_name] = {
            "status": run.info.status,
            "outcome": run.data.tags["harness.status"],
            "params": run.data.params,
            "recipe": run.data.tags["harness.recipe"],
            "reused_from": [names.get(run_id, run_id) for run_id in reused_from],
            "metrics": {name: sorted(listed, key=repr) for name, listed in points.items() if name not in TIMED},
            "steps": {name: sorted(step for step, _ in points[name]) for name in TIMED},
            "learning rates": (
                Path(run.info.artifact_uri.removeprefix("file://")) / "learning_rate_changes.csv"
            ).read_text(),
        }
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


def assert_same_checkpoints(left: Path, right: Path, experiment: str = "small") -> None:
    """The final states of two stores, run by run, bit for bit."""
    ours, theirs = _checkpoints(left, experiment), _checkpoints(right, experiment)
    assert ours.keys() == theirs.keys()
    assert ours
    for name, file in ours.items():
        a, b = (torch.load(path, weights_only=True) for path in (file, theirs[name]))
        for key in ("state_dict", "optimizer", "scheduler", "epoch", "params", "metrics", "rng", "node"):
            assert same_bits(a[key], b[key]), f"{name}: {key} differs"


def _checkpoints(folder: Path, experiment: str) -> dict[str, Path]:
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return {
        f"{run.info.run_name}/{path.name}": path
        for run in client.search_runs([found.experiment_id])
        for path in sorted((Path(run.info.artifact_uri.removeprefix("file://")) / "checkpoints").glob("*.pth.tar"))
    }
