"""Connects to MLflow's database, creates it, and corrects its paths after the store was moved."""

import importlib.metadata
import json
import logging
import os
import re
import shutil
import sqlite3
import tempfile
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from harness.errors import FAILED, HarnessError, without_login
from harness.files import cache_folder, whole_file
from harness.machine import check_memory

if TYPE_CHECKING:
    from mlflow import MlflowClient

DATABASE = "mlflow.db"
NONE = "no experiment has this name"  # a server that finds it says yes to everything


def database_uri(path: Path) -> str:
    """SQLAlchemy's address of a SQLite database, for any characters in its path.

    >>> database_uri(Path("/a b/mlflow.db"))
    'sqlite:////a b/mlflow.db'
    """
    text = str(path)
    if not re.search("[?%\udc80-\udcff]", text):  # special in an address, or no text
        return f"sqlite:///{text}"
    from sqlalchemy.engine import make_url

    quoted = f"file:{quote(os.fsencode(text))}"  # SQLite itself decodes this
    if make_url("sqlite:////%41").database == "/A":  # SQLAlchemy from 2.1 on decodes names too, before SQLite
        quoted = quote(quoted, safe="/:")
    return f"sqlite+pysqlite:///{quoted}?uri=true"  # with `sqlite:` alone, MLflow would make a folder of that name


def connect(uri: str) -> "MlflowClient":
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # with the password in it
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # a message that fails waits in the outbox
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db").setLevel(
        logging.CRITICAL + 1
    )  # not hundreds of lines of SQL: the error is raised too
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        is_mlflow = bool(client.search_experiments(max_results=1)) or client.get_experiment_by_name(NONE) is None
    except Exception as error:
        if is_odd_answer(error):
            is_mlflow = False
        elif isinstance(error, MlflowException):
            message = without_login(f"MLflow at {uri}: {str(error).splitlines()[0]}")
            raise HarnessError(message, exit_code=FAILED) from None
        else:
            raise
    if not is_mlflow:
        raise HarnessError(without_login(f"{uri} answers, but not as MLflow does."), exit_code=FAILED)
    return client


def is_odd_answer(error: Exception) -> bool:
    """Whether a server answered something that MLflow would not: a proxy before it, or another server."""
    is_no_json = isinstance(error, json.JSONDecodeError) or "not in a valid JSON format" in str(error)
    return is_no_json or type(error).__module__.startswith("google.protobuf")


def draft_database() -> None:
    """Starts to make an empty database in a thread, for the next new store: MLflow needs seconds for it."""
    global _draft
    if _draft is None:
        check_memory()
        _draft = _Draft()
        _draft.start()


class _Draft(threading.Thread):
    """Makes an empty database in a temporary folder."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._folder = tempfile.TemporaryDirectory()
        self.path = Path(self._folder.name) / DATABASE
        self.is_whole = False

    def run(self) -> None:
        with suppress(Exception):  # such as of a full disk: whoever needs the database makes it, and says so
            _make_empty(self.path)
            self.is_whole = True


_draft: _Draft | None = None


def _make_empty(path: Path) -> None:
    """Makes an empty database, by copying one that the same version of MLflow made for this user before."""
    template = cache_folder() / f"mlflow-{importlib.metadata.version('mlflow')}.db"
    try:
        shutil.copyfile(template, path)
        with closing(sqlite3.connect(path)) as database:
            found = database.execute("PRAGMA quick_check").fetchone()[0]
        if found == "ok":
            connect(database_uri(path))
            return
    except (OSError, sqlite3.DatabaseError, HarnessError):
        pass  # none yet, or damaged
    path.unlink(missing_ok=True)
    connect(database_uri(path))
    with suppress(OSError), whole_file(template) as temporary:
        shutil.copyfile(path, temporary)


def create_database(path: Path) -> None:
    """Makes MLflow's database, completely or not at all: a process killed during the migrations would break it."""
    if path.exists():
        return
    with whole_file(path) as temporary:
        if _draft is not None:
            _draft.join()
        if _draft is not None and _draft.is_whole:
            shutil.copyfile(_draft.path, temporary)
        else:
            _make_empty(temporary)
        with closing(sqlite3.connect(temporary)) as database:
            location, now = (path.parent / "artifacts" / "Default").as_uri(), round(time.time() * 1000)
            change = "UPDATE experiments SET artifact_location = ?, creation_time = ?, last_update_time = ?"
            database.execute(f"{change} WHERE name = 'Default'", (location, now, now))
            database.commit()


def relocate(path: Path, folder: Path) -> None:
    """Corrects the artifact locations in a database whose store was copied or moved: MLflow keeps absolute paths."""
    prefix = (folder / "artifacts").as_uri()
    with closing(sqlite3.connect(path, timeout=20)) as database:
        try:
            rows = database.execute("SELECT experiment_id, artifact_location FROM experiments").fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):  # a database whose creation was interrupted; MLflow completes it
                return
            raise HarnessError(f"{path} cannot be read: {error}", exit_code=FAILED) from None
        except sqlite3.DatabaseError as error:
            raise HarnessError(f"{path} cannot be read: {error}", exit_code=FAILED) from None
        moved: list[tuple[int, str, str]] = []
        for number, location in rows:
            base, _, own = (location or "").rpartition("/artifacts/")  # not by name: it can change
            if base.startswith("file:") and "/" not in own and f"{base}/artifacts" != prefix:
                moved.append((number, location, f"{prefix}/{own}"))
        for number, old, new in moved:
            database.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (new, number))
            database.execute(
                "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) "
                "WHERE experiment_id = ? AND artifact_uri LIKE ?",
                (new, len(old) + 1, number, f"{old}/%"),
            )
            for table, column in (("logged_models", "artifact_location"), ("model_versions", "storage_location")):
                database.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} LIKE ?",
                    (new, len(old) + 1, f"{old}/%"),
                )
        database.commit()
