"""MLflow's database, read without MLflow: whoever lists thousands of runs need not wait for its import or its pages."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import FAILED, HarnessError

if TYPE_CHECKING:
    from mlflow.entities import Run

TAGS = ("harness.%", "mlflow.note%")  # the others hold sources and views, which a list does not show


@dataclass(frozen=True, kw_only=True)
class Found:
    """A run as MLflow has it; `metrics` are the last value of each."""

    run_id: str
    name: str
    status: str
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, run: "Run") -> "Found":
        """The same from MLflow's own object."""
        data = run.data
        return cls(
            run_id=run.info.run_id,
            name=run.info.run_name,
            status=run.info.status,
            params=data.params,
            metrics=data.metrics,
            tags=data.tags,
        )


def find_experiment(database: Path, name: str) -> tuple[str, dict[str, str]] | None:
    """The id and the tags of an experiment, None where there is no such one or it was deleted."""
    with _open(database) as connection:
        row = connection.execute(
            "SELECT experiment_id FROM experiments WHERE name = ? AND lifecycle_stage = 'active'", (name,)
        ).fetchone()
        if row is None:
            return None
        tags = connection.execute("SELECT key, value FROM experiment_tags WHERE experiment_id = ?", row)
        return str(row[0]), dict(tags.fetchall())


def read_runs(database: Path, experiment_id: str) -> list[Found]:
    """All runs of an experiment that were not deleted, the oldest first."""
    with _open(database) as connection:
        return _read(connection, "experiment_id = ? AND lifecycle_stage = 'active'", (experiment_id,))


def read_best(
    database: Path, experiment_id: str, *, maximize: bool, required: Mapping[str, str], excluded: Mapping[str, str]
) -> Found | None:
    """The finished run with the best finite `objective`, the oldest of equal ones.

    It has the tags `required` and has other ones than `excluded`.
    """
    wanted = [(key, value, "=") for key, value in required.items()]
    wanted += [(key, value, "!=") for key, value in excluded.items()]
    tags = "".join(
        f" AND EXISTS (SELECT 1 FROM tags t WHERE t.run_uuid = r.run_uuid AND t.key = ? AND t.value {sign} ?)"
        for _, _, sign in wanted
    )
    values = [text for key, value, _ in wanted for text in (key, value)]
    query = f"""
        SELECT r.run_uuid FROM latest_metrics m JOIN runs r ON r.run_uuid = m.run_uuid
        WHERE m.key = 'objective' AND m.is_nan = 0 AND abs(m.value) < 1e300
        AND r.experiment_id = ? AND r.lifecycle_stage = 'active' AND r.status = 'FINISHED'{tags}
        ORDER BY m.value {"DESC" if maximize else "ASC"}, r.start_time LIMIT 1"""
    with _open(database) as connection:
        row = connection.execute(query, (experiment_id, *values)).fetchone()
        return None if row is None else _read(connection, "run_uuid = ?", row)[0]


def _read(connection: sqlite3.Connection, which: str, values: Sequence[Any]) -> list[Found]:
    order = "ORDER BY start_time, run_uuid"
    rows = connection.execute(f"SELECT run_uuid, name, status FROM runs WHERE {which} {order}", values).fetchall()
    found = {run_id: Found(run_id=run_id, name=name, status=status) for run_id, name, status in rows}
    runs = f"(SELECT run_uuid FROM runs WHERE {which})"
    for run_id, key, value in connection.execute(
        f"SELECT run_uuid, key, value FROM params WHERE run_uuid IN {runs} ORDER BY rowid", values
    ):
        found[run_id].params[key] = value
    for run_id, key, value, is_nan in connection.execute(
        f"SELECT run_uuid, key, value, is_nan FROM latest_metrics WHERE run_uuid IN {runs}", values
    ):
        found[run_id].metrics[key] = nan if is_nan else value
    kept = " OR ".join("key LIKE ?" for _ in TAGS)
    for run_id, key, value in connection.execute(
        f"SELECT run_uuid, key, value FROM tags WHERE run_uuid IN {runs} AND ({kept})", (*values, *TAGS)
    ):
        found[run_id].tags[key] = value
    return list(found.values())


@contextmanager
def _open(database: Path) -> Iterator[sqlite3.Connection]:
    journal = database.with_name(f"{database.name}-journal")
    try:
        # Of a driver at work, or of one that was killed amid a write: who may only read cannot undo what is half done.
        if journal.exists():
            with closing(sqlite3.connect(database, timeout=20)) as connection:
                connection.execute("SELECT 1 FROM experiments").fetchone()
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=20)) as connection:
            yield connection
    except sqlite3.DatabaseError as error:
        raise HarnessError(f"{database} cannot be read: {error}", exit_code=FAILED) from None
