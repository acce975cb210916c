"""The store as MLflow's own client sees it, copied elsewhere, and opened by many processes at once."""

import json
import math
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from running import Zygote, command, environment
from serving import Server
from small import SPEC, slow

from harness.errors import HarnessError
from harness.tracking.runs import find_run, list_runs
from harness.tracking.store import FINISHED, Store, finite

Harness = Callable[..., Any]
EPOCHS = 8
PER_EPOCH = {
    "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "epoch_seconds", "gradient_norm", "update_size",
}  # fmt: skip


@pytest.fixture(scope="module")
def client(swept: Path) -> MlflowClient:
    """MLflow's client on the database, as `mlflow ui` opens it: nothing of this package between."""
    return MlflowClient(f"sqlite:///{swept / 'mlruns' / 'mlflow.db'}")


@pytest.fixture(scope="module")
def found(client: MlflowClient) -> dict[str, Run]:
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def artifacts(client: MlflowClient, run: Run, path: str | None = None) -> set[str]:
    names: set[str] = set()
    for entry in client.list_artifacts(run.info.run_id, path):
        names |= artifacts(client, run, entry.path) if entry.is_dir else {entry.path}
    return names


def test_one_run_a_trial_is_named_by_its_number(found: dict[str, Run]) -> None:
    assert sorted(found) == ["train-0001", "trial-0000", "trial-0001", "trial-0002", "trial-0003"]
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert all(run.info.end_time >= run.info.start_time for run in found.values())


def test_params_are_the_real_values(found: dict[str, Run]) -> None:
    for run in found.values():
        assert set(run.data.params) == {"lr", "momentum", "patience", "factor"}
    assert found["train-0001"].data.params == {"lr": "0.3", "momentum": "0.9", "patience": "1", "factor": "0.1"}
    on_grid = {float(run.data.params["lr"]) for name, run in found.items() if name.startswith("trial")}
    assert on_grid <= {0.001, 0.01, 0.1, 1.0}, "not the integers of the grid inside"


def test_each_epoch_is_logged_once_under_its_own_step(client: MlflowClient, found: dict[str, Run]) -> None:
    for run in found.values():
        assert set(run.data.metrics) >= PER_EPOCH
        for name in PER_EPOCH:
            points = client.get_metric_history(run.info.run_id, name)
            assert [point.step for point in sorted(points, key=lambda point: point.step)] == list(range(EPOCHS))
            assert all(math.isfinite(point.value) for point in points)


def test_the_final_metrics_name_the_best_epoch(client: MlflowClient, found: dict[str, Run]) -> None:
    for run in found.values():
        points = {p.step: p.value for p in client.get_metric_history(run.info.run_id, "val_accuracy")}
        best = max(points.values())
        assert run.data.metrics["best_val_accuracy"] == run.data.metrics["objective"] == best
        assert run.data.metrics["best_epoch"] == min(step for step, value in points.items() if value == best)


def test_the_artifacts_are_all_there(client: MlflowClient, found: dict[str, Run]) -> None:
    for run in found.values():
        assert artifacts(client, run) == {
            "checkpoints/best.pth.tar",
            "checkpoints/last.pth.tar",
            "class_accuracy.csv",
            "learning_rate_changes.csv",
            "model_summary.txt",
            "spec/small.py",
        }


def test_the_artifacts_hold_what_they_say(client: MlflowClient, found: dict[str, Run], tmp_path: Path) -> None:
    reductions = 0
    for run in found.values():
        folder = Path(client.download_artifacts(run.info.run_id, "", str(tmp_path)))
        assert (folder / "spec" / "small.py").read_text() == SPEC
        summary = (folder / "model_summary.txt").read_text()
        assert "Linear" in summary and "146" in summary  # 6 x 16 + 16 + 16 x 2 + 2
        best, last = (torch.load(folder / "checkpoints" / f"{n}.pth.tar", weights_only=True) for n in ("best", "last"))
        assert (best["epoch"], last["epoch"]) == (run.data.metrics["best_epoch"], EPOCHS - 1)
        assert best["run_id"] == last["run_id"] == run.info.run_id
        assert last["params"] == {name: float(text) for name, text in run.data.params.items()}
        assert last["metrics"]["val_loss"] == run.data.metrics["val_loss"]
        assert best["spec"]["source"] == SPEC

        rates = {p.step: p.value for p in client.get_metric_history(run.info.run_id, "lr")}
        changes = [f"{e},{rates[e - 1]},{rates[e]}" for e in range(1, EPOCHS) if rates[e] != rates[e - 1]]
        listed = (folder / "learning_rate_changes.csv").read_text().splitlines()
        assert listed == ["epoch,from,to", *changes]
        reductions += len(changes)
        shutil.rmtree(folder / "checkpoints")
    assert reductions, "some run reduces its learning rate, or this shows nothing"


def test_the_dataset_is_an_input_of_every_run(found: dict[str, Run]) -> None:
    inputs = [run.inputs.dataset_inputs for run in found.values()]
    assert [len(listed) for listed in inputs] == [1] * len(found)
    assert len({listed[0].dataset.digest for listed in inputs}) == 1
    first = inputs[0][0]
    assert first.dataset.name == "tensors" and len(first.dataset.digest) >= 16
    assert {tag.key: tag.value for tag in first.tags} == {"mlflow.data.context": "training"}
    profile = json.loads(first.dataset.profile)
    assert (profile["train"], profile["validation"], profile["test"]) == (200, 100, 100)


def test_the_tags_say_where_a_run_comes_from(found: dict[str, Run], swept: Path) -> None:
    git = ["git", "-C", str(swept), "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    for run in found.values():
        tags = run.data.tags
        assert tags["mlflow.source.git.commit"] == commit
        assert tags["harness.git.dirty"] == "false"
        assert tags["mlflow.source.name"] == "small.py"
        assert tags["mlflow.user"]
        assert tags["mlflow.note.content"].startswith("**val_accuracy ")
        assert "of 8. Learning rate" in tags["mlflow.note.content"]
        assert tags["harness.version.torch"] == str(torch.__version__)
        assert tags["harness.version.python"] == sys.version.split()[0]
        assert tags["harness.version.harness"] and tags["harness.version.torchvision"]
        assert tags["harness.device"].startswith(("cpu", "cuda"))
        assert tags["harness.seed"] == "0" and tags["harness.batch_size"] == "32" and tags["harness.epochs"] == "8"


def test_a_changed_spec_is_marked_as_uncommitted(spec: Path) -> None:
    from harness.tracking.provenance import git_tags

    folder = spec.parent
    assert git_tags(spec) == {}
    git = ["git", "-C", str(folder), "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for arguments in (["init", "-q"], ["add", "small.py"], ["commit", "-q", "-m", "spec"]):
        subprocess.run([*git, *arguments], check=True)
    assert git_tags(spec)["harness.git.dirty"] == "false"
    spec.write_text(spec.read_text() + "\n")
    assert git_tags(spec)["harness.git.dirty"] == "true"


def test_a_copied_store_finds_its_own_artifacts(swept: Path, tmp_path: Path) -> None:
    copy = tmp_path / "else where"
    shutil.copytree(swept / "mlruns", copy)
    before = {path: path.stat().st_mtime_ns for path in (swept / "mlruns" / "artifacts").rglob("*")}
    Store(copy)
    client = MlflowClient(f"sqlite:///{copy / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 5
    for run in runs:
        assert len(artifacts(client, run)) == 6
        assert run.info.artifact_uri.startswith(f"{copy.as_uri()}/artifacts/small/")
        client.log_text(run.info.run_id, "added", "added.txt")
    assert len(list(copy.rglob("added.txt"))) == 5
    assert before == {path: path.stat().st_mtime_ns for path in (swept / "mlruns" / "artifacts").rglob("*")}


def test_an_experiment_that_was_renamed_in_mlflow_keeps_its_artifacts(swept: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(swept / "mlruns", copy)
    opened = Store(copy)
    opened.client.rename_experiment(opened.experiment_id("small"), "renamed")
    again = Store(copy)
    run = find_run(again, "best", "renamed")
    assert again.artifact(run, "spec/small.py").read_text() == SPEC


def test_artifacts_that_lie_elsewhere_stay_there(swept: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(swept / "mlruns", copy)
    with closing(sqlite3.connect(copy / "mlflow.db")) as database, database:
        database.execute("UPDATE experiments SET artifact_location = 's3://bucket/artifacts/small'")
    opened = Store(copy)
    assert (
        opened.client.get_experiment(opened.experiment_id("small")).artifact_location == "s3://bucket/artifacts/small"
    )


def test_four_processes_may_open_a_fresh_store_at_once(spec: Path, tmp_path: Path, zygote: Any) -> None:
    started = [
        zygote.start("train", spec, "--epochs", 1, "--set", f"seed={number}", "--store", "mlruns", cwd=tmp_path)
        for number in range(4)
    ]
    for process in started:
        done = process.wait()
        assert done.code == 0, done
    opened = Store(tmp_path / "mlruns")
    runs = opened.find_runs(opened.experiment_id("small"), "")
    assert sorted(run.data.tags["harness.seed"] for run in runs) == ["0", "1", "2", "3"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert opened.experiment_names() == ["small"]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A new store with no runs."""
    return Store(tmp_path_factory.mktemp("fresh") / "mlruns", create=True)


def test_what_a_resumed_run_has_is_not_logged_twice(fresh: Store) -> None:
    experiment = fresh.experiment_id("resumed", tags={})
    log = fresh.create_run(experiment, "trial-0000", params={"lr": 0.1}, tags={})
    for step in range(3):
        log.add_metrics({"loss": 1.0 / (step + 1)}, step)
    log.send()
    log.log_dataset("data", "0123456789abcdef", {"train": 3})

    again = fresh.resume_run(log.run_id)
    for step in range(5):
        again.add_metrics({"loss": 1.0 / (step + 1)}, step)
    again.log_dataset("data", "0123456789abcdef", {"train": 3})
    again.log_params({"lr": 0.1, "momentum": 0.9})
    again.end(FINISHED, "finished")

    points = fresh.client.get_metric_history(log.run_id, "loss")
    assert sorted(point.step for point in points) == [0, 1, 2, 3, 4]
    run = fresh.client.get_run(log.run_id)
    assert run.data.params == {"lr": "0.1", "momentum": "0.9"}
    assert len(run.inputs.dataset_inputs) == 1
    assert run.info.status == "FINISHED" and run.data.tags["harness.status"] == "finished"


def test_a_loss_that_is_infinite_is_not_the_largest_float(fresh: Store) -> None:
    log = fresh.create_run(fresh.experiment_id("infinite", tags={}), "trial-0000", params={}, tags={})
    log.add_metrics(finite({"loss": math.inf, "other": 1.0}), 0)
    log.end(FINISHED, "finished")
    assert math.isnan(fresh.client.get_run(log.run_id).data.metrics["loss"])


def test_tags_may_be_long_and_params_too(fresh: Store) -> None:
    tags = {"harness.long": "x" * 20_000}
    log = fresh.create_run(fresh.experiment_id("long", tags={}), "trial-0000", params={"p": "y" * 10_000}, tags={})
    log.add_tags(tags)
    log.send()
    run = fresh.client.get_run(log.run_id)
    assert len(run.data.tags["harness.long"]) > 7_000 and len(run.data.params["p"]) == 6_000


def test_first_tags_are_set_once_and_tags_each_time(fresh: Store) -> None:
    first = fresh.experiment_id("tagged", tags={"a": "1"}, first_tags={"b": "1"})
    assert fresh.experiment_id("tagged", tags={"a": "2"}, first_tags={"b": "2"}) == first
    tags = fresh.client.get_experiment(first).tags
    assert (tags["a"], tags["b"]) == ("2", "1")


def test_a_store_without_runs_says_how_to_start(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"holds no runs yet; start with: python -m harness sweep SPEC") as error:
        Store(tmp_path / "nothing")
    assert error.value.exit_code == 2
    assert not (tmp_path / "nothing").exists()


def test_an_unknown_experiment_lists_those_that_there_are(swept: Path) -> None:
    with pytest.raises(HarnessError, match=r"has no runs of 'smal'\. Did you mean 'small'\? It has: small\."):
        Store(swept / "mlruns").experiment_id("smal")


def test_a_database_of_a_newer_mlflow_is_an_error_in_one_sentence(swept: Path, tmp_path: Path) -> None:
    shutil.copy(swept / "mlruns" / "mlflow.db", tmp_path / "mlflow.db")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    with pytest.raises(HarnessError, match="MLflow at sqlite:") as error:
        _ = Store(tmp_path).client
    assert "\n" not in str(error.value) and error.value.exit_code == 1


def test_a_file_that_is_no_database_is_an_error_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(HarnessError, match=r"mlflow\.db cannot be read: file is not a database") as error:
        list_runs(Store(tmp_path), "small")
    assert error.value.exit_code == 1


@pytest.mark.slow
def test_a_tracking_server_that_keeps_the_artifacts(spec: Path, tmp_path: Path, harness: Harness) -> None:
    """Nothing is shared with the server but its address."""
    far = tmp_path / "server"
    far.mkdir()
    server = Server(far)
    uri = server.uri
    try:
        harness("sweep", spec, "--trials", 2, "--jobs", 1, MLFLOW_TRACKING_URI=uri)
        assert len(list((far / "artifacts").rglob("best.pth.tar"))) == 2
        assert not (tmp_path / "mlruns" / "mlflow.db").exists()

        shutil.rmtree(tmp_path / "mlruns")
        reload = ("reload", "best", "small", "--json")
        assert harness(*reload, MLFLOW_TRACKING_URI=uri).json["match"], "its code is the one that stands here"
        spec.unlink()
        login = uri.replace("http://", "http://me:secret@")
        refused = harness(*reload, MLFLOW_TRACKING_URI=login, code=1)
        assert "--trust" in refused.err and "secret" not in refused.err + refused.out
        reloaded = harness(*reload, "--trust", MLFLOW_TRACKING_URI=uri).json
        assert reloaded["match"] is True and reloaded["measured"]["val_accuracy"] > 0.5
        listed = harness("runs", "small", "--json", MLFLOW_TRACKING_URI=uri).json
        assert [run["status"] for run in listed] == ["FINISHED"] * 2
        missing = harness("runs", "other", MLFLOW_TRACKING_URI=uri, code=2)
        assert uri in missing.err
    finally:
        server.stop()


def test_a_server_that_is_not_there_is_an_error_in_one_sentence(swept: Path) -> None:
    env = environment(MLFLOW_TRACKING_URI="http://127.0.0.1:9", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    done = subprocess.run(command("runs", "small"), cwd=swept, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("harness: MLflow at http://127.0.0.1:9: ") and "Traceback" not in done.stderr


def test_a_server_gets_the_artifacts_of_trials_that_wait_also_after_a_kill(
    spec: Path, tmp_path: Path, harness: Harness, zygote: Zygote
) -> None:
    far = tmp_path / "server"
    far.mkdir()
    server = Server(far)
    try:
        slow(spec, 0.1)
        sweep = ("sweep", spec, "--budget", 14, "--jobs", 1)
        started = zygote.start(*sweep, cwd=tmp_path, MLFLOW_TRACKING_URI=server.uri)
        started.wait_for("trial-0002")
        started.kill()
        harness(*sweep, MLFLOW_TRACKING_URI=server.uri, HARNESS_PACE="0")
        client = MlflowClient(server.uri)
        experiment = client.get_experiment_by_name("small")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id])
        assert "waiting" in {run.data.tags["harness.status"] for run in runs}
        for run in runs:
            there = {file.path for file in client.list_artifacts(run.info.run_id)}
            assert {"checkpoints", "spec", "learning_rate_changes.csv"} <= there, f"{run.info.run_name}: {there}"
    finally:
        server.stop()
