"""A tracking server that is away for a while, or busy: training goes on, and everything arrives once."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from serving import Gate, Server

from harness.errors import HarnessError
from harness.tracking import outbox
from harness.tracking.store import FINISHED, RunLog, Store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("server"))
    yield started
    started.stop()


@pytest.fixture
def gate(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    opened = Gate(server)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", opened.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # MLflow's own, after two seconds
    monkeypatch.setattr(outbox, "RETRY_SECONDS", 0.1)
    yield opened
    opened.close()


def open_run(folder: Path, experiment: str) -> tuple[Store, RunLog, list[str]]:
    """A store behind the gate, a run in it, and what is said."""
    said: list[str] = []
    store = Store(folder, create=True, say=said.append)
    return store, store.create_run(store.experiment_id(experiment, tags={}), "run", params={"a": 1}, tags={}), said


def points(uri: str, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in MlflowClient(uri).get_metric_history(run_id, name)]


@pytest.mark.parametrize("mood", [429, 500, 503])
@pytest.mark.parametrize("is_late", [False, True], ids=["before", "after"])
def test_what_a_busy_server_does_not_take_arrives_later_once(
    mood: int, is_late: bool, gate: Gate, server: Server, tmp_path: Path
) -> None:
    store, log, said = open_run(tmp_path, f"busy-{mood}-{is_late}")
    log.add_metrics({"loss": 3.0}, 0)
    log.send()
    gate.mood, gate.is_late = mood, is_late
    for step in (1, 2):
        log.add_metrics({"loss": 3.0 - step}, step)
        log.send()
    log.write_text("note.txt", "kept")
    log.end(FINISHED, "finished")
    assert not store.takes_runs
    assert len(said) == 1 and "training goes on" in said[0]
    gate.mood = None
    assert store.outbox is not None
    store.outbox.flush()
    assert "is back" in said[-1]
    assert points(server.uri, log.run_id, "loss") == [(0, 3.0), (1, 2.0), (2, 1.0)]
    run = MlflowClient(server.uri).get_run(log.run_id)
    assert run.info.status == "FINISHED" and run.data.params == {"a": "1"}
    assert store.artifact(run, "note.txt").read_text() == "kept"
    assert not list((tmp_path / "outbox" / "letters").glob("*.json"))


def test_what_waits_survives_a_restart_and_comes_before_anything_new(
    gate: Gate, server: Server, tmp_path: Path
) -> None:
    _, log, _ = open_run(tmp_path, "restarted")
    gate.mood = 503
    log.add_metrics({"loss": 1.0}, 0)
    log.send()
    log.add_tags({"state": "old"})
    log.send()
    del log  # the process ends here
    gate.mood = None
    said: list[str] = []
    store = Store(tmp_path, create=True, say=said.append)
    assert said == ["the tracking server is back: 2 messages delivered"]
    experiment = store.experiment_id("restarted")
    (run,) = store.find_runs(experiment, "")
    assert run.data.tags["state"] == "old"
    again = store.resume_run(run.info.run_id)
    again.add_metrics({"loss": 1.0}, 0)
    again.add_metrics({"loss": 0.5}, 1)
    again.send()
    assert points(server.uri, run.info.run_id, "loss") == [(0, 1.0), (1, 0.5)]


def test_a_run_whose_making_was_not_acknowledged_is_made_once(gate: Gate, tmp_path: Path) -> None:
    store, _, said = open_run(tmp_path, "made-once")
    experiment = store.experiment_id("made-once")
    gate.mood, gate.is_late = 502, True
    looks = iter(range(10**9))

    def mend() -> None:
        if next(looks) == 3:
            gate.mood = None

    assert store.outbox is not None
    store.outbox.check_stop = mend
    store.create_run(experiment, "second", params={}, tags={})
    assert "training goes on" in said[0]
    assert said[1:] == ["the tracking server is back"], "each is said once, and only when it is so"
    assert len(store.find_runs(experiment, "attributes.run_name = 'second'")) == 1


@pytest.mark.parametrize("was_away", [False, True])
def test_artifacts_that_are_not_taken_hold_nothing_else_up(
    was_away: bool, gate: Gate, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "LATE_SECONDS", 0.1)
    store, log, said = open_run(tmp_path, f"bucket-{was_away}")
    gate.mood, gate.only = 500, "" if was_away else "mlflow-artifacts"
    log.write_text("note.txt", "kept")
    log.upload()
    log.end(FINISHED, "finished")
    gate.only = "mlflow-artifacts"
    assert store.outbox is not None
    store.outbox.retry(now=True)
    assert store.takes_runs, "the server answers"
    assert "does not take artifacts" in "".join(said)
    client = MlflowClient(server.uri)
    assert client.get_run(log.run_id).info.status == "FINISHED"
    assert not client.list_artifacts(log.run_id)
    gate.mood = None
    store.outbox.flush()
    assert [file.path for file in client.list_artifacts(log.run_id)] == ["note.txt"]
    assert not list((tmp_path / "outbox" / "letters").glob("*.json"))


def test_a_question_waits_until_what_was_said_before_has_arrived(gate: Gate, server: Server, tmp_path: Path) -> None:
    store, log, _ = open_run(tmp_path, "in-turn")
    gate.mood = 503
    log.add_metrics({"loss": 1.0}, 0)
    log.send()
    gate.mood = None
    again = store.resume_run(log.run_id)
    again.add_metrics({"loss": 1.0}, 0)
    again.send()
    assert points(server.uri, log.run_id, "loss") == [(0, 1.0)]


def test_another_stores_run_on_the_same_server_is_not_taken_up(gate: Gate, tmp_path: Path) -> None:
    store, log, _ = open_run(tmp_path / "one", "shared")
    other, _, _ = open_run(tmp_path / "other", "shared")
    assert store.owns(log.run) and not other.owns(log.run)
    assert Store(tmp_path / "one", create=True).owns(log.run), "also after a restart"


def test_what_is_refused_later_is_kept_and_holds_nothing_up(gate: Gate, server: Server, tmp_path: Path) -> None:
    store, log, said = open_run(tmp_path, "refused")
    gate.mood = 503
    log.log_params({"b": 1})
    store.write({"run": log.run_id, "params": {"a": "2"}})
    log.end(FINISHED, "finished")
    gate.mood = None
    assert store.outbox is not None
    store.outbox.flush()
    assert any("refused a message" in line for line in said)
    assert len(list((tmp_path / "outbox" / "letters" / "refused").glob("*.json"))) == 1
    run = MlflowClient(server.uri).get_run(log.run_id)
    assert run.info.status == "FINISHED" and run.data.params == {"a": "1", "b": "1"}


def test_a_request_that_is_wrong_is_an_error_and_does_not_wait(gate: Gate, tmp_path: Path) -> None:
    store, log, _ = open_run(tmp_path, "wrong")
    with pytest.raises(HarnessError, match=r"MLflow refused .* param"):
        store.write({"run": log.run_id, "params": {"a": "2"}})
    assert store.takes_runs


@pytest.mark.parametrize("fault", (errno.EMFILE, errno.EACCES))
def test_artifacts_that_cannot_be_read_for_a_while_are_neither_refused_nor_left_out(
    fault: int, gate: Gate, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, log, _ = open_run(tmp_path, f"unreadable-{fault}")
    gate.mood = 503
    log.write_text("note.txt", "kept")
    log.write_text("in/note.txt", "kept too")
    log.end(FINISHED, "finished")
    gate.mood = None
    assert store.outbox is not None

    def fail(*_: object) -> None:
        raise OSError(fault, "not now")

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", fail)
        with pytest.raises(OSError, match="not now"):
            store.outbox.retry(now=True)
    assert list((tmp_path / "outbox" / "letters").glob("*.json")), "the letter waits"
    store.outbox.flush()
    run = MlflowClient(server.uri).get_run(log.run_id)
    assert store.artifact(run, "note.txt").read_text() == "kept"
    assert store.artifact(run, "in/note.txt").read_text() == "kept too"
