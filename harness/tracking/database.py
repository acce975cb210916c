"""Reads MLflow's database without MLflow: a list of thousands of runs is fast, and needs no import of MLflow."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import FAILED, HarnessError
from harness.tracking.tags import COMPARABLE, CONFIRMS, KIND, OBJECTIVE, STATUS, STUDY, SWEEP

if TYPE_CHECKING:
    from mlflow.entities import Run

TAGS = ("harness.%", "mlflow.note%")  # the other tags hold sources and views, which a list does not show
BRIEF_TAGS = (KIND, OBJECTIVE, STATUS, STUDY, SWEEP, COMPARABLE, CONFIRMS)
CURVES = ("lr", "epoch_seconds", "gradient#_norm", "update#_size", "train#_%", "val#_%")  # metrics that each epoch has


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """A run as MLflow has it; `metrics` are the last value of each."""

    run_id: str
    name: str
    status: str
    started: int = 0  # milliseconds since 1970
    ended: int = 0  # the same; 0 while it runs
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, run: "Run") -> "RunRow":
        """The row of a run that MLflow's client gave."""
        data = run.data
        return cls(
            run_id=run.info.run_id,
            name=run.info.run_name,
            status=run.info.status,
            started=run.info.start_time or 0,
            ended=run.info.end_time or 0,
            params=data.params,
            metrics=data.metrics,
            tags=data.tags,
        )


def find_experiment(database: Path, name: str) -> tuple[str, dict[str, str]] | None:
    """The id and the tags of an experiment; None if it does not exist or was deleted."""
    with _open(database) as connection:
        row = connection.execute(
            "SELECT experiment_id FROM experiments WHERE name = ? AND lifecycle_stage = 'active'", (name,)
        ).fetchone()
        if row is None:
            return None
        tags = connection.execute("SELECT key, value FROM experiment_tags WHERE experiment_id = ?", row)
        return str(row[0]), dict(tags.fetchall())


def read_runs(database: Path, experiment_id: str, *, is_brief: bool = False) -> list[RunRow]:
    """All runs of an experiment, the oldest first, without deleted ones.

    `is_brief` reads less: no params, only the metric `objective`, and only the tags that say what kind of run it is.
    """
    with _open(database) as connection:
        which = "experiment_id = ? AND lifecycle_stage = 'active'"
        return _read(connection, which, experiment_id, is_brief=is_brief)


def read_histories(database: Path, experiment_id: str) -> dict[str, dict[str, list[float]]]:
    """The curves of all runs of an experiment: one value an epoch, by run id and name of the metric."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    names = " OR ".join("key LIKE ? ESCAPE '#'" for _ in CURVES)
    with _open(database) as connection:
        for run_id, key, step, value, is_nan in connection.execute(
            "SELECT run_uuid, key, step, value, is_nan FROM metrics WHERE run_uuid IN (SELECT run_uuid FROM runs "
            f"WHERE experiment_id = ? AND lifecycle_stage = 'active') AND ({names}) ORDER BY step",
            (experiment_id, *CURVES),
        ):
            found.setdefault(run_id, {}).setdefault(key, {})[step] = nan if is_nan else value
    return {
        run_id: {key: list(by_step.values()) for key, by_step in curves.items()} for run_id, curves in found.items()
    }


def read_state(database: Path, experiment_id: str) -> tuple[object, ...]:
    """What changes when something of an experiment was logged."""
    of_runs = "FROM runs WHERE experiment_id = ? AND lifecycle_stage = 'active'"
    with _open(database) as connection:
        runs = connection.execute(f"SELECT COUNT(*), MAX(end_time), group_concat(status) {of_runs}", (experiment_id,))
        metrics = connection.execute(
            "SELECT COUNT(*), MAX(timestamp), SUM(step) FROM latest_metrics "
            f"WHERE run_uuid IN (SELECT run_uuid {of_runs}) AND key NOT LIKE 'system/%'",
            (experiment_id,),
        )
        return (*runs.fetchone(), *metrics.fetchone())


def read_run(database: Path, run_id: str) -> RunRow:
    """One run, which must exist."""
    with _open(database) as connection:
        return _read(connection, "run_uuid = ?", run_id)[0]


def _read(connection: sqlite3.Connection, which: str, value: str, *, is_brief: bool = False) -> list[RunRow]:
    rows = connection.execute(
        f"SELECT run_uuid, name, status, start_time, end_time FROM runs WHERE {which} ORDER BY start_time, run_uuid",
        (value,),
    )
    found = {
        run_id: RunRow(run_id=run_id, name=name, status=status, started=started or 0, ended=ended or 0)
        for run_id, name, status, started, ended in rows
    }
    runs = f"(SELECT run_uuid FROM runs WHERE {which})"
    if not is_brief:
        for run_id, key, text in connection.execute(
            f"SELECT run_uuid, key, value FROM params WHERE run_uuid IN {runs} ORDER BY rowid", (value,)
        ):
            found[run_id].params[key] = text
    measured = f"SELECT run_uuid, key, value, is_nan FROM latest_metrics WHERE run_uuid IN {runs}"
    for run_id, key, number, is_nan in connection.execute(
        f"{measured} AND key = 'objective'" if is_brief else measured, (value,)
    ):
        found[run_id].metrics[key] = nan if is_nan else number
    tags = BRIEF_TAGS if is_brief else TAGS
    kept = " OR ".join("key LIKE ?" for _ in tags)
    for run_id, key, text in connection.execute(
        f"SELECT run_uuid, key, value FROM tags WHERE run_uuid IN {runs} AND ({kept})", (value, *tags)
    ):
        found[run_id].tags[key] = text
    return list(found.values())


@contextmanager
def _open(database: Path) -> Iterator[sqlite3.Connection]:
    journal = database.with_name(f"{database.name}-journal")
    try:
        # The journal of a driver that is writing now, or was killed while writing: SQLite needs to write to undo that.
        if journal.exists():
            with closing(sqlite3.connect(database, timeout=20)) as connection:
                connection.execute("SELECT 1 FROM experiments").fetchone()
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=20)) as connection:
            yield connection
    except sqlite3.DatabaseError as error:
        raise HarnessError(f"{database} cannot be read: {error}", exit_code=FAILED) from None
