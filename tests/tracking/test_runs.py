"""Runs out of the store: which is the best, which is meant, as records and as pandas."""

import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from mlflow.entities import Metric
from running import environment

import harness
from harness.errors import HarnessError
from harness.tracking.database import RunRow, find_experiment, read_runs
from harness.tracking.runs import RunRecord, best_record, find_best, find_run, list_runs, to_record, typed_params
from harness.tracking.store import FINISHED, KILLED, Store
from harness.tracking.tags import DIRECTION, KIND, OBJECTIVE


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Runs of known values in two experiments: `up` is to be maximised, `down` minimised."""
    opened = Store(tmp_path_factory.mktemp("runs") / "mlruns", create=True)
    for name, objective, direction in (("up", "val_accuracy", "maximize"), ("down", "val_loss", "minimize")):
        tags = {OBJECTIVE: objective, DIRECTION: direction}
        experiment = opened.experiment_id(name, tags=tags)
        for number, value in enumerate((0.5, 0.9, 0.2, 0.9, 0.1)):
            tags = {OBJECTIVE: objective, KIND: "trial"}
            log = opened.create_run(experiment, f"trial-{number:04d}", params={"lr": 0.1}, tags=tags)
            log.add_metrics({"objective": value, objective: value, "train_loss": 1 - value / 2}, 7)
            log.end(FINISHED, "finished")
        log = opened.create_run(experiment, "pruned", params={"lr": 1.0}, tags={OBJECTIVE: objective})
        log.add_metrics({objective: 0.99}, 1)
        log.end(KILLED, "pruned", "pruned after epoch 2")
        log = opened.create_run(experiment, "other", params={}, tags={OBJECTIVE: "val_error"})
        log.add_metrics({"objective": 12.0 if name == "up" else -12.0}, 7)
        log.end(FINISHED, "finished")
        opened.create_run(experiment, "running", params={}, tags={OBJECTIVE: objective})
    return opened


def names(records: list[RunRecord]) -> list[str]:
    return [record.name for record in records]


def test_runs_are_read_after_a_kill_amid_a_write(store: Store, tmp_path: Path) -> None:
    killed = Store(shutil.copytree(store.folder, tmp_path / "mlruns"))
    code = """
import os, signal, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA cache_size = 1")  # what is not committed reaches the file
database.execute("BEGIN")
database.execute("UPDATE runs SET name = name || '-half', user_id = hex(randomblob(100))")
database.execute("UPDATE metrics SET value = value + 1")
database.execute("UPDATE tags SET value = value || hex(randomblob(1000))")
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code, str(killed.database)], check=False)
    assert killed.database.with_name("mlflow.db-journal").exists()
    assert [record.name for record in list_runs(killed, "up")] == [record.name for record in list_runs(store, "up")]


def test_the_best_run_is_the_largest_where_the_objective_is_maximised(store: Store) -> None:
    best = find_best(store, "up")
    assert (best.info.run_name, best.data.metrics["objective"]) == ("trial-0001", 0.9), "the first of two equal ones"


def test_the_best_run_is_the_smallest_where_the_objective_is_minimised(store: Store) -> None:
    best = find_best(store, "down")
    assert (best.info.run_name, best.data.metrics["objective"]) == ("trial-0004", 0.1)


def test_the_list_begins_with_the_best_and_ends_with_what_cannot_be_compared(store: Store) -> None:
    up = names(list_runs(store, "up"))
    assert up[:5] == ["trial-0001", "trial-0003", "trial-0000", "trial-0002", "trial-0004"]
    assert up[5:] == ["pruned", "other", "running"]
    down = names(list_runs(store, "down"))
    assert down[:5] == ["trial-0004", "trial-0002", "trial-0000", "trial-0001", "trial-0003"]
    for experiment in ("up", "down"):
        assert list_runs(store, experiment)[0].run_id == find_best(store, experiment).info.run_id


def test_any_metric_sorts_by_its_better_end(store: Store) -> None:
    assert names(list_runs(store, "up", sort="train_loss"))[0] == "trial-0001"
    assert names(list_runs(store, "down", sort="train_loss"))[0] == "trial-0001"
    assert names(list_runs(store, "up", sort="val_accuracy"))[0] == "pruned", "its last value, whatever its status"


def test_an_unknown_metric_is_an_error_that_lists_those_there_are(store: Store) -> None:
    with pytest.raises(
        HarnessError, match=r"--sort val_acuracy: no run has this metric\. Did you mean 'val_accuracy'\?"
    ):
        list_runs(store, "up", sort="val_acuracy")


def test_a_status_is_the_outcome(store: Store) -> None:
    status = {record.name: record.status for record in list_runs(store, "up")}
    assert (status["trial-0000"], status["pruned"], status["running"]) == ("FINISHED", "PRUNED", "RUNNING")


def test_more_runs_than_a_page_are_all_listed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.tracking.runs.PAGE", 3)
    assert len(list_runs(store, "up")) == 8
    one = list_runs(store, "up")[-1].run_id
    assert find_run(store, one[:20]).info.run_id == one


def test_a_run_is_found_by_its_id_or_a_unique_beginning(store: Store) -> None:
    ids = [record.run_id for experiment in ("up", "down") for record in list_runs(store, experiment)]
    for wanted in ids:
        assert find_run(store, wanted).info.run_id == wanted
        shortest = next(wanted[:n] for n in range(1, 33) if sum(other.startswith(wanted[:n]) for other in ids) == 1)
        assert find_run(store, shortest).info.run_id == wanted


def test_an_ambiguous_beginning_is_an_error_that_shows_the_candidates(store: Store) -> None:
    ids = [record.run_id for experiment in ("up", "down") for record in list_runs(store, experiment)]
    first = next(digit for digit in "0123456789abcdef" if sum(other.startswith(digit) for other in ids) > 1)
    with pytest.raises(
        HarnessError, match=rf"\d+ run ids begin with '{first}' \({first}.*\); write more of the id"
    ) as error:
        find_run(store, first)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("text", ["f" * 32, "f" * 31])
def test_an_unknown_run_is_an_error(store: Store, text: str) -> None:
    with pytest.raises(HarnessError, match=f"has no run .*{text}"):
        find_run(store, text)


@pytest.mark.parametrize("text", ["trial-0001", "", "xyz", "%", "Best"])
def test_what_cannot_be_a_run_is_an_error_that_says_what_can(store: Store, text: str) -> None:
    with pytest.raises(HarnessError, match="is not a run: give an MLflow run id, the beginning of one, or 'best'"):
        find_run(store, text)


def test_best_without_a_spec_needs_a_store_with_one(store: Store) -> None:
    with pytest.raises(HarnessError, match=r"'best' of which spec\? .* has down, up; name one"):
        find_run(store, "best")
    assert find_run(store, "best", "up").info.run_name == "trial-0001"


def test_an_experiment_without_a_finished_run_has_no_best_one(store: Store) -> None:
    experiment = store.experiment_id("empty", tags={OBJECTIVE: "val_accuracy", DIRECTION: "maximize"})
    try:
        with pytest.raises(HarnessError, match="empty has no finished run yet") as error:
            find_best(store, "empty")
        assert error.value.exit_code == 1
        assert list_runs(store, "empty") == []
    finally:
        store.client.delete_experiment(experiment)
    assert "empty" not in store.experiment_names()


def test_params_come_back_as_what_they_were(store: Store) -> None:
    params = {"lr": 1e-3, "width": 64, "bias": True, "kernel": (3, 5), "name": "adam", "none": None}
    experiment = store.experiment_id("typed", tags={})
    log = store.create_run(experiment, "trial-0000", params=params, tags={})
    run = store.client.get_run(log.run_id)
    store.client.delete_experiment(experiment)
    assert typed_params(run) == params
    assert {name: type(value) for name, value in typed_params(run).items()} == {n: type(v) for n, v in params.items()}


def test_a_record_as_json_has_the_keys_that_are_promised(store: Store) -> None:
    document = to_record(find_best(store, "up")).as_json()
    assert list(document) == ["run_id", "name", "status", "value", "params", "metrics"]
    assert document["value"] == 0.9 and document["params"] == {"lr": 0.1}


def test_runs_are_a_data_frame_with_the_best_first(swept: Path) -> None:
    frame = harness.runs("small", store=swept / "mlruns")
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns[:8]) == ["run_id", "name", "status", "value", "lr", "momentum", "patience", "factor"]
    assert len(frame) == 5 and frame["value"].is_monotonic_decreasing
    assert (frame["value"] == frame["best_val_accuracy"]).all()
    assert frame["lr"].dtype == float and frame["patience"].dtype == int
    assert frame.set_index("name").loc["train-0001", "lr"] == 0.3, "the hyperparameter, not the last learning rate"
    assert (frame["last_lr"] <= frame["lr"]).all() and (frame["last_lr"] < frame["lr"]).any()
    same = harness.runs(swept / "small.py", store=swept / "mlruns")
    pd.testing.assert_frame_equal(frame, same)


def test_a_history_has_a_row_for_each_epoch(swept: Path) -> None:
    best = harness.runs("small", store=swept / "mlruns").iloc[0]
    curve = harness.history(best["run_id"][:12], store=swept / "mlruns")
    assert curve.index.name == "epoch" and list(curve.index) == list(range(1, 9))
    measured = {"train_loss", "train_accuracy", "val_loss", "val_accuracy", "gradient_norm", "update_size"}
    assert set(curve) == measured | {"lr", "epoch_seconds"}
    assert curve["val_accuracy"].max() == best["value"]
    assert curve["val_accuracy"].idxmax() == best["best_epoch"]
    assert curve["lr"].iloc[0] == best["lr"]


def test_runs_of_a_spec_that_was_never_run_are_an_error(swept: Path, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="has no runs of 'small-demo'"):
        harness.runs("small", store=swept / "mlruns", demo=True)
    with pytest.raises(HarnessError, match="holds no runs yet"):
        harness.runs("small", store=tmp_path / "none")


def test_a_run_that_was_cut_short_has_no_value(swept: Path, tmp_path: Path) -> None:
    shutil.copytree(swept / "mlruns", tmp_path / "copy")
    opened = Store(tmp_path / "copy")
    log = opened.create_run(opened.experiment_id("small"), "trial-0009", params={"lr": 1.0}, tags={})
    opened.client.log_batch(log.run_id, metrics=[Metric("val_accuracy", 0.99, 0, 0)])
    log.end(KILLED, "interrupted", "stopped; the same command goes on")
    last = list_runs(opened, "small")[-1]
    assert (last.name, last.status, last.value) == ("trial-0009", "INTERRUPTED", None)
    assert find_best(opened, "small").info.run_name != "trial-0009"
    frame = harness.runs("small", store=tmp_path / "copy")
    assert frame["value"].isna().sum() == 1


def test_the_database_read_directly_says_what_mlflow_says(swept: Path) -> None:
    store = Store(swept / "mlruns")
    experiment_id = store.experiment_id("small")
    assert find_experiment(store.database, "small") == (
        experiment_id,
        store.client.get_experiment(experiment_id).tags,
    )
    direct = read_runs(store.database, experiment_id)
    assert len(direct) == 5
    by_mlflow = {run.info.run_id: RunRow.of(run) for run in store.find_runs(experiment_id, "")}
    for run in direct:
        other = by_mlflow[run.run_id]
        assert (run.name, run.status, run.metrics) == (other.name, other.status, other.metrics)
        assert list(run.params.items()) == list(other.params.items())
        assert run.tags == {
            key: value for key, value in other.tags.items() if key.startswith(("harness.", "mlflow.note"))
        }


def test_what_was_deleted_in_mlflow_is_not_read(swept: Path, tmp_path: Path) -> None:
    shutil.copytree(swept / "mlruns", tmp_path / "mlruns")
    store = Store(tmp_path / "mlruns")
    best = find_best(store, "small").info.run_id
    store.client.delete_run(best)
    assert best not in {record.run_id for record in list_runs(store, "small")}
    assert best_record(store, "small").run_id != best
    store.client.delete_experiment(store.experiment_id("small"))
    assert find_experiment(store.database, "small") is None


def test_listing_loads_neither_mlflow_nor_torch(swept: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom harness.tracking.runs import best_record, list_runs\n"
        "from harness.tracking.store import Store\nstore = Store(Path('mlruns'))\n"
        "assert len(list_runs(store, 'small')) == 5 and best_record(store, 'small').value\n"
        "assert not {'mlflow', 'torch', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=swept, check=True, env=environment())
