"""Stores of any name, on read-only places, of other users, and with a part that was damaged or lost."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from running import Finished

Harness = Callable[..., Finished]
TWO = ("--jobs", 1, "--trials", 2, "--set", "epochs=2")


@pytest.mark.parametrize("name", ["a?b", "q%41x", "a#b c", "é;&=", "a:b@c'\"", "x\udcffy"])
def test_a_store_may_have_any_name(name: str, harness: Harness, spec: Path, tmp_path: Path) -> None:
    harness("sweep", spec, *TWO, "--store", name)
    assert [run["status"] for run in harness("runs", spec, "--store", name, "--json").json] == ["FINISHED"] * 2
    assert harness("reload", "best", "--store", name, "--json").json["match"]
    assert {path.name for path in tmp_path.iterdir()} == {"small.py", name}
    assert {path.name for path in (tmp_path / name).iterdir()} >= {"mlflow.db", "optuna.log", "artifacts", "paths"}
    (tmp_path / name).rename(tmp_path / "moved%3F")
    assert harness("reload", "best", "--store", "moved%3F", "--json").json["match"]


@pytest.fixture
def store(swept: Path, tmp_path: Path) -> Path:
    """A store of its own, beside its spec."""
    shutil.copytree(swept / "mlruns", tmp_path / "mlruns")
    shutil.copy(swept / "small.py", tmp_path)
    return tmp_path / "mlruns"


LOOKING: tuple[tuple[Any, ...], ...] = (
    ("runs", "small.py", "--json"),
    ("best", "small.py", "--json"),
    ("reload", "best", "--json"),
    ("report", "small.py", "--output", "page.html"),
    ("sweep", "small.py", "--dry-run"),
)


def test_a_store_that_cannot_be_written_can_be_read(harness: Harness, store: Path, tmp_path: Path) -> None:
    (store / "artifacts" / "copied").touch()  # it was copied here: MLflow knows another place
    taken = subprocess.run(["chattr", "-R", "+i", store], capture_output=True, check=False).returncode == 0
    if not taken:
        pytest.skip("chattr +i is not here: root may write everywhere")
    try:
        with pytest.raises(OSError):
            (store / "x").touch()
        ids = [run["run_id"] for run in harness("runs", "small.py", "--json").json]
        for arguments in (*LOOKING, ("compare", *ids[:2], "--json")):
            done = harness(*arguments)
            assert not done.err, done
        done = harness("best", "small.py", "--test", code=1)
        assert "must be noted there: copy the store" in done.err
        assert harness("report", "small.py", code=2).err.count("\n") == 1
        done = harness("sweep", "small.py", "--trials", 9, code=1)
        assert "Traceback" not in done.err and "ermi" in done.err
    finally:
        subprocess.run(["chattr", "-R", "-i", store], check=True)
    assert {run["status"] for run in harness("runs", "small.py", "--json").json} == {"FINISHED"}


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda lines: [], "has no study, and MLflow has the runs of more: trial-000"),
        (lambda lines: lines[: len(lines) // 2], "and MLflow has the runs of more: trial-0003"),
        (lambda lines: [*lines[:5], b"garbage\n", *lines[5:]], "optuna.log:6: this line is damaged"),
        (lambda lines: [*lines, b"garbage\n"], ": this line is damaged"),
        (lambda lines: [*lines, b'{"op_code": 99}\n', *lines], "it contains an entry that Optuna does not know"),
        (lambda lines: [*lines, b"5\n"], "it contains an entry that Optuna does not know"),
    ],
)
def test_a_damaged_journal_trains_nothing_twice(
    damage: Callable[[list[bytes]], list[bytes]], told: str, harness: Harness, store: Path, tmp_path: Path
) -> None:
    journal, before = store / "optuna.log", read_runs(store)
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(damage(lines)))
    done = harness("sweep", "small.py", "--trials", 5, "--jobs", 1, code=1)
    assert told in done.err and done.err.count("\n") == 1
    assert read_runs(store) == before, "nothing was trained, nothing was begun"
    journal.write_bytes(b"".join(lines))
    harness("sweep", "small.py", "--trials", 5, "--jobs", 1)
    assert sorted(read_runs(store)) == sorted([*before, "trial-0004"])


def test_a_lost_journal_can_be_left_behind(harness: Harness, store: Path) -> None:
    def trials() -> list[str]:
        return sorted(run["name"] for run in harness("runs", "small.py", "--json").json if "trial" in run["name"])

    (store / "optuna.log").write_text("")
    done = harness("sweep", "small.py", *TWO, "--fresh")
    assert "best: " in done.out
    assert trials() == ["trial-0000", "trial-0001"], "of the new study alone"
    harness("sweep", "small.py", "--jobs", 1, "--trials", 3, "--set", "epochs=2")
    assert trials() == ["trial-0000", "trial-0001", "trial-0002"]


def test_runs_that_were_all_deleted_are_not_best(harness: Harness, store: Path) -> None:
    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    for run in client.search_runs(["1"]):
        client.delete_run(run.info.run_id)
    done = harness("sweep", "small.py", "--trials", 4, "--jobs", 1, code=1)
    assert "were deleted in MLflow" in done.err and "--fresh" in done.err
    harness("sweep", "small.py", *TWO, "--fresh")


def read_runs(store: Path) -> list[str]:
    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    return sorted(run.info.run_name for run in client.search_runs(["1"]))
