"""MLflow's database: the empty one that is kept is what MLflow makes, and damage to it does no harm."""

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from harness.tracking.store import Store


@pytest.fixture
def template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty database that is kept, made by a first store."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Store(tmp_path / "first", create=True)
    (kept,) = (tmp_path / "cache" / "harness").iterdir()
    return kept


def schema(database: Path) -> list[tuple[object, ...]]:
    """Tables, columns and indices. (The text of the constraints is in another order each time MLflow writes it.)"""
    with closing(sqlite3.connect(database)) as connection:
        named = connection.execute("SELECT type, name FROM sqlite_master ORDER BY type, name").fetchall()
        columns = [row for _, name in named for row in connection.execute(f"PRAGMA table_info('{name}')")]
        return [*named, *columns, *connection.execute("SELECT * FROM alembic_version")]


def test_a_copy_of_the_kept_database_is_what_mlflow_makes(template: Path, tmp_path: Path) -> None:
    before = time.time() * 1000
    Store(tmp_path / "second", create=True)
    MlflowClient(f"sqlite:///{tmp_path / 'own.db'}").search_experiments()

    made = tmp_path / "second" / "mlflow.db"
    assert schema(made) == schema(tmp_path / "own.db")
    (default,) = MlflowClient(f"sqlite:///{made}").search_experiments()
    assert default.artifact_location == (tmp_path / "second" / "artifacts" / "Default").as_uri()
    assert default.creation_time >= before - 1


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"no database", lambda b: b"", None])
def test_a_kept_database_that_is_damaged_or_cannot_be_kept_does_no_harm(
    template: Path, tmp_path: Path, damage: Callable[[bytes], bytes] | None
) -> None:
    if damage is None:
        template.unlink()
        template.parent.rmdir()
        template.parent.write_text("a file where the folder would be")
    else:
        template.write_bytes(damage(template.read_bytes()))
    Store(tmp_path / "second", create=True)
    assert schema(tmp_path / "second" / "mlflow.db") == schema(tmp_path / "first" / "mlflow.db")
