"""Stores that were edited, damaged or are none: whoever looks at them gets a sentence, and nothing in them changes."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch
from inprocess import assert_sentence, listing, run

Damage = Callable[[Path], object]


def sql(*statements: str) -> Damage:
    """Changes the database."""

    def change(store: Path) -> None:
        with closing(sqlite3.connect(store / "mlflow.db")) as database:
            for statement in statements:
                database.execute(statement)
            database.commit()

    return change


def tag(key: str, value: str) -> Damage:
    return sql(f"UPDATE tags SET value = '{value}' WHERE key = '{key}'")


def replace(name: str, content: bytes | None) -> Damage:
    """A file with other content, or a folder in its place."""

    def change(store: Path) -> None:
        for path in store.glob(name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            path.mkdir() if content is None else path.write_bytes(content)

    return change


def checkpoint(change: Callable[[dict[str, object]], object]) -> Damage:
    """Another content of every checkpoint."""

    def write(store: Path) -> None:
        for path in store.glob("artifacts/*/*/artifacts/checkpoints/*.pth.tar"):
            saved = torch.load(path, weights_only=True)
            change(saved)
            torch.save(saved, path)

    return write


CHECKPOINTS, SPECS = "artifacts/*/*/artifacts/checkpoints/*", "artifacts/*/*/artifacts/spec/*"
RUNS, BEST, RELOAD = ("runs", "small.py"), ("best", "small.py"), ("reload", "best", "small.py", "--device", "cpu")
PREDICT, REPORT = ("predict", "best", "small.py"), ("report", "small.py", "--output", "page.html")
ESCAPE = "\x1b[2J\x07red"

# What was done to the store, the command, its exit code, and what it says on stderr.
CASES: dict[str, tuple[Damage, tuple[str, ...], int, str]] = {
    "database: a folder": (replace("mlflow.db", None), RUNS, 1, "mlflow.db"),
    "database: a folder, reload": (replace("mlflow.db", None), RELOAD, 1, "mlflow.db"),
    "database: empty": (replace("mlflow.db", b""), RUNS, 1, "mlflow.db"),
    "database: text": (replace("mlflow.db", b"not a database" * 100), RUNS, 1, "file is not a database"),
    "database: text, best": (replace("mlflow.db", b"not a database" * 100), BEST, 1, "file is not a database"),
    "database: text, reload": (replace("mlflow.db", b"not a database" * 100), RELOAD, 1, "file is not a database"),
    "database: text, report": (replace("mlflow.db", b"not a database" * 100), REPORT, 1, "file is not a database"),
    "database: another's": (sql("DROP TABLE experiments"), RUNS, 1, "no such table"),
    "database: another's, best": (sql("DROP TABLE runs"), BEST, 1, "no such table"),
    "database: without tags": (sql("DROP TABLE tags"), RUNS, 1, "no such table"),
    "database: unknown schema": (sql("UPDATE alembic_version SET version_num = 'zzz'"), RELOAD, 1, "MLflow"),
    "database: half": (lambda store: os.truncate(store / "mlflow.db", 50_000), RUNS, 1, "mlflow.db"),
    "no runs of this name": (sql("UPDATE experiments SET name = 'other' WHERE name = 'small'"), RUNS, 2, "no runs of"),
    "experiment deleted": (sql("UPDATE experiments SET lifecycle_stage = 'deleted' WHERE name = 'small'"), RUNS, 0, ""),
    "all runs deleted: best": (sql("UPDATE runs SET lifecycle_stage = 'deleted'"), BEST, 1, "no finished run"),
    "all runs deleted: runs": (sql("UPDATE runs SET lifecycle_stage = 'deleted'"), RUNS, 0, ""),
    "all runs deleted: report": (sql("UPDATE runs SET lifecycle_stage = 'deleted'"), REPORT, 2, "no runs"),
    "all runs deleted: reload": (sql("UPDATE runs SET lifecycle_stage = 'deleted'"), RELOAD, 1, "no finished run"),
    "trial is text": (tag("harness.trial", "zzz"), RUNS, 0, ""),
    "trial is text, best": (tag("harness.trial", "zzz"), BEST, 0, ""),
    "trial is text, report": (tag("harness.trial", "zzz"), REPORT, 0, ""),
    "trial is negative": (tag("harness.trial", "-3"), RUNS, 0, ""),
    "sweep is text": (tag("harness.sweep", "zzz"), RUNS, 0, ""),
    "status is odd": (tag("harness.status", "???"), RUNS, 0, ""),
    "kind is odd": (tag("harness.kind", "???"), RUNS, 0, ""),
    "objective is odd": (tag("harness.objective", "???"), BEST, 1, "no finished run"),
    "threads are text": (tag("harness.threads", "many"), RELOAD, 0, ""),
    "threads are many": (tag("harness.threads", "9" * 40), RELOAD, 0, ""),
    "threads are none": (tag("harness.threads", "0"), RELOAD, 0, ""),
    "device is odd": (tag("harness.device", "abacus"), RELOAD, 0, ""),
    "demo is odd": (tag("harness.demo", "???"), RELOAD, 0, ""),
    "spec path is odd": (tag("harness.spec_path", "/dev/null/x"), RELOAD, 0, ""),
    "params are odd": (sql("UPDATE params SET value = '[[[['"), RUNS, 0, ""),
    "params are nested": (sql(f"UPDATE params SET value = '{'(' * 3000}'"), RUNS, 0, ""),
    "params are huge": (sql(f"UPDATE params SET value = '{'9' * 5000}'"), RUNS, 0, ""),
    "names command a terminal": (sql(f"UPDATE runs SET name = '{ESCAPE}'"), RUNS, 0, ""),
    "values command a terminal": (sql(f"UPDATE params SET value = '{ESCAPE}'"), BEST, 0, ""),
    "reasons command a terminal": (
        sql("UPDATE runs SET status = 'FAILED'", "UPDATE tags SET value = 'failed' WHERE key = 'harness.status'",
            f"INSERT INTO tags SELECT 'harness.reason', '{ESCAPE}', run_uuid FROM runs"), RUNS, 0, ""
    ),
    "values are infinite": (sql("UPDATE latest_metrics SET value = 1e308 WHERE key = 'objective'"), RUNS, 0, ""),
    "epochs are infinite": (sql("UPDATE latest_metrics SET value = 1e308 WHERE key = 'best_epoch'"), RUNS, 0, ""),
    "epochs are NaN": (sql("UPDATE latest_metrics SET is_nan = 1, value = 0 WHERE key = 'best_epoch'"), RUNS, 0, ""),
    "epochs are NaN, best": (sql("UPDATE latest_metrics SET is_nan = 1 WHERE key = 'best_epoch'"), BEST, 0, ""),
    "artifacts elsewhere": (sql("UPDATE runs SET artifact_uri = 'file:///nowhere'"), RELOAD, 1, "has no artifact"),
    "artifacts at an odd address": (sql("UPDATE runs SET artifact_uri = 'zzz://nowhere'"), RELOAD, 1, ""),
    "artifacts: a name with a zero": (sql("UPDATE runs SET artifact_uri = 'file:///a%00b'"), RELOAD, 1, ""),
    "artifacts are gone": (replace("artifacts", b""), RELOAD, 1, "has no artifact"),
    "looks at the test part are odd": (
        sql("INSERT INTO experiment_tags SELECT 'harness.test_looks', 'zzz', experiment_id FROM experiments"),
        ("best", "small.py", "--test", "--device", "cpu"), 1, "test_looks"
    ),
    "checkpoint: empty": (replace(CHECKPOINTS, b""), RELOAD, 1, "is damaged"),
    "checkpoint: text": (replace(CHECKPOINTS, b"zzz"), RELOAD, 1, "is damaged"),
    "checkpoint: a folder": (replace(CHECKPOINTS, None), RELOAD, 1, "cannot be read"),
    "checkpoint: a list": (
        lambda store: [torch.save([1], path) for path in store.glob(CHECKPOINTS)], RELOAD, 1, "is not a check"
    ),
    "checkpoint: without spec": (checkpoint(lambda saved: saved.pop("spec")), RELOAD, 1, "its spec is missing"),
    "checkpoint: without values": (checkpoint(lambda saved: saved.pop("values")), RELOAD, 1, "its values is missing"),
    "checkpoint: epoch is text": (checkpoint(lambda saved: saved.update(epoch="3")), RELOAD, 1, "its epoch is '3'"),
    "checkpoint: epoch is negative": (checkpoint(lambda saved: saved.update(epoch=-1)), RELOAD, 1, "its epoch is -1"),
    "checkpoint: odd values": (checkpoint(lambda saved: saved.update(values={"a": 1})), RELOAD, 2, "'a'"),
    "checkpoint: no weights": (checkpoint(lambda saved: saved.update(state_dict={})), RELOAD, 1, "does not fit"),
    "checkpoint: odd weights": (checkpoint(lambda saved: saved["state_dict"].update(a=1)), RELOAD, 1, "does not fit"),
    "checkpoint: text for weights": (
        checkpoint(lambda saved: saved["state_dict"].update({"0.weight": "x"})), RELOAD, 1, "does not fit"
    ),
    "spec: appended to": (
        lambda store: [p.write_text(p.read_text() + "\nx = 1\n") for p in store.glob(SPECS)], RELOAD, 1, "it is not run"
    ),
    "spec: gone": (lambda store: [p.unlink() for p in store.glob(SPECS)], RELOAD, 1, "holds no spec"),
    "spec: a folder": (replace(SPECS, None), RELOAD, 1, "holds no spec"),
    "journal: text, report": (replace("optuna.log", b"zzz\n"), REPORT, 1, "this line is damaged"),
    "journal: a folder, report": (replace("optuna.log", None), REPORT, 1, "Is a directory"),
    "journal: odd entries, report": (replace("optuna.log", b'{"op_code": 0}\n'), REPORT, 1, "optuna.log"),
    "another run's id": (lambda store: None, ("reload", "f" * 32), 2, "has no run"),
    "no run's id": (lambda store: None, ("reload", "zzz"), 2, "is not a run"),
    "a quote": (lambda store: None, ("reload", "a'b"), 2, "is not a run"),
    "a wildcard": (lambda store: None, ("reload", "%"), 2, "is not a run"),
    "no metric": (lambda store: None, ("runs", "small.py", "--sort", "val_acuracy"), 2, "Did you mean"),
    "no study": (lambda store: None, ("runs", "small.py", "--study", "9"), 2, "no such study"),
    "no device": (lambda store: None, ("reload", "best", "small.py", "--device", "abacus"), 2, "choose auto"),
    "no number of a device": (lambda store: None, ("reload", "best", "small.py", "--device", "cpu:x"), 2, "cpu:x"),
    "no image": (lambda store: None, ("predict", "best", "none.png", "--spec", "small.py"), 2, ""),
    "one run": (lambda store: None, ("compare", "best"), 2, "at least two"),
}  # fmt: skip
WRITTEN = ("experiment deleted", "looks at the test part are odd")  # these commands are there to write


@pytest.mark.parametrize("case", CASES)
def test_whoever_looks_at_a_hostile_store_gets_a_sentence(case: str, swept: Path, tmp_path: Path) -> None:
    damage, arguments, code, told = CASES[case]
    shutil.copytree(swept / "mlruns", tmp_path / "mlruns")
    shutil.copy(swept / "small.py", tmp_path)
    run("runs", "small.py", cwd=tmp_path)  # the store is at home here now
    damage(tmp_path / "mlruns")
    before = listing(tmp_path)
    done = run(*arguments, cwd=tmp_path)
    if code:
        assert_sentence(done, code, told)
    else:
        assert done.code == 0 and not done.err.replace("The test part had not been looked at before.\n", ""), done
    assert "\x1b" not in done.out + done.err and "\x07" not in done.out
    if case not in WRITTEN and "report" not in arguments:
        assert listing(tmp_path) == before
