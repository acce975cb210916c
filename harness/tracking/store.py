"""The store: one folder with MLflow's database and artifacts, Optuna's journal, and the tree of epochs."""

import fcntl
import getpass
import json
import math
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote_to_bytes, urlparse

from harness.errors import FAILED, HarnessError, did_you_mean, without_login
from harness.files import check_folder, write_whole
from harness.tracking.making import DATABASE, connect, create_database, database_uri, relocate
from harness.tracking.outbox import Outbox, deliver, refusal
from harness.tracking.readonly import DatabaseCopy, is_writable
from harness.tracking.tags import CREATION, HOST, REASON, SOURCE_TYPE, STATUS, STORE, USER, where

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

T = TypeVar("T")
JOURNAL = "optuna.log"  # the journal's file in a store
CLASS_ACCURACY = "class_accuracy.csv"  # an artifact of a run: a row an epoch, a column a class
FINISHED, RUNNING, FAILED_STATUS, KILLED = "FINISHED", "RUNNING", "FAILED", "KILLED"
SCHEDULED = "SCHEDULED"  # of a run that waits
MOST_METRICS = 1000  # a batch, says MLflow
MOST_TAG = 7_500  # characters


class Store:
    """MLflow in a folder, or at `MLFLOW_TRACKING_URI` if that is set. `say` is told when that is unreachable."""

    def __init__(self, folder: Path, *, create: bool = False, say: Callable[[str], None] = lambda text: None) -> None:
        self.folder = folder.absolute()
        check_folder(folder, "--store")
        self._is_locked, self._writes = False, create
        self.database = self.folder / DATABASE  # MLflow's database, if the store is local
        self.uri = os.environ.get("MLFLOW_TRACKING_URI") or database_uri(self.database)
        self.is_local = self.uri == database_uri(self.database)
        if self.is_local and not create and not self.database.exists():
            raise HarnessError(f"{folder} holds no runs yet; start with: python -m harness sweep SPEC --store {folder}")
        if self.is_local and self.database.is_dir():
            raise HarnessError(f"{self.database} is a folder, not MLflow's database.", exit_code=FAILED)
        if create:
            self.folder.mkdir(parents=True, exist_ok=True)
        self._copy = (
            DatabaseCopy(self.folder) if self.is_local and not create and not is_writable(self.folder) else None
        )
        if self._copy is not None:
            self.database, self.uri = self._copy.path, database_uri(self._copy.path)
        elif self.is_local:
            with self._lock():
                create_database(self.database)
                relocate(self.database, self.folder)
        self._places = self._find_places()
        self.outbox = None if self.is_local else Outbox(self.folder / "outbox" / "letters", self.client, say)
        if self.outbox is not None and create:  # commands that only read do not wait for earlier messages
            self.outbox.retry(now=True)

    @cached_property
    def client(self) -> "MlflowClient":
        """MLflow's client. Its import takes seconds, so it is created only when something needs it."""
        with self._lock():
            return connect(self.uri)

    def check_place(self) -> None:
        """Raises `HarnessError` if the folder or its database was moved or removed since it was opened."""
        if self._find_places() != self._places:
            raise HarnessError(
                f"{self.folder} was moved or removed while it was used. Bring it back (and remove what is there "
                "now), and the same command continues.",
                exit_code=FAILED,
            )

    def _find_places(self) -> tuple[object, object]:
        return _place(self.folder), _place(self.database) if self.is_local else None

    @property
    def is_read_only(self) -> bool:
        """Whether this user cannot write here. Then what is written to MLflow is lost."""
        return self._copy is not None

    def __str__(self) -> str:
        return str(self.folder) if self.is_local else without_login(self.uri)

    def owns(self, run: "Run") -> bool:
        """Whether this store made a run, and not another store on the same tracking server."""
        return self.outbox is None or run.data.tags.get(STORE) == self._uid

    @cached_property
    def _uid(self) -> str:
        path = self.folder / "id"
        if not path.exists():
            write_whole(path, uuid.uuid4().hex)
        return path.read_text()

    def _ask(self, question: Callable[[], T]) -> T:
        return self.outbox.ask(question) if self.outbox is not None and self._writes else question()

    @property
    def paths(self) -> Path:
        """The folder of the tree of epochs."""
        return self.folder / "paths"

    @property
    def journal(self) -> Path:
        """Optuna's journal."""
        return self.folder / JOURNAL

    def experiment_id(
        self, name: str, *, tags: Mapping[str, str] | None = None, first_tags: Mapping[str, str] | None = None
    ) -> str:
        """The id of an experiment. It is made if it does not exist and `tags` are given.

        `tags` are set each time, `first_tags` only when it is made.
        """
        return self._ask(lambda: self._experiment_id(name, tags, first_tags))

    def _experiment_id(self, name: str, tags: Mapping[str, str] | None, first_tags: Mapping[str, str] | None) -> str:
        with self._lock():
            found = self.client.get_experiment_by_name(name)
            if found is not None:
                if found.lifecycle_stage == "deleted":
                    self.client.restore_experiment(found.experiment_id)
                for key, value in (tags or {}).items():
                    if found.tags.get(key) != value:
                        self.client.set_experiment_tag(found.experiment_id, key, value)
                return str(found.experiment_id)
            if tags is None:
                known = self.experiment_names()
                listed = f" It has: {', '.join(known)}." if known else ""
                raise HarnessError(f"{self} has no runs of '{name}'.{did_you_mean(name, known)}{listed}")
            location = (self.folder / "artifacts" / name).as_uri() if self.is_local else None
            every = {**(first_tags or {}), **tags}
            return str(self.client.create_experiment(name, artifact_location=location, tags=every))

    def experiment_names(self) -> list[str]:
        """The names of all experiments, without MLflow's own first one."""
        return sorted(found.name for found in self.client.search_experiments() if found.name != "Default")

    def create_run(
        self, experiment_id: str, name: str, *, params: Mapping[str, Any], tags: Mapping[str, str]
    ) -> "RunLog":
        """A new run with its params, in the status RUNNING."""
        own = {
            USER: _user(),
            SOURCE_TYPE: "LOCAL",
            STATUS: "running",
            HOST: socket.gethostname(),
        }
        made = {**own, **tags}
        if self.outbox is None:
            run = self.client.create_run(experiment_id, run_name=name, tags=made)
        else:
            made |= {CREATION: uuid.uuid4().hex, STORE: self._uid}
            run = self.outbox.ask(lambda: self._made_run(experiment_id, name, made))
        log = RunLog(self, run)
        log.log_params(params)
        return log

    def resume_run(self, run_id: str) -> "RunLog":
        """An interrupted run, RUNNING again. Metrics that it has are not logged a second time.

        Raises `HarnessError` if the run was deleted.
        """
        return self._ask(lambda: self._resumed(run_id))

    def _resumed(self, run_id: str) -> "RunLog":
        from mlflow.exceptions import MlflowException

        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            run = None
        if run is None or run.info.lifecycle_stage == "deleted":
            raise HarnessError(f"run {run_id} was deleted", exit_code=FAILED)
        if run.info.status != RUNNING:
            self.client.update_run(run_id, status=RUNNING)
        if run.data.tags.get(STATUS) != "running":
            self.client.set_tag(run_id, STATUS, "running")
        if REASON in run.data.tags:  # why it ended before
            self.client.delete_tag(run_id, REASON)
        log = RunLog(self, run)
        log.read_history()
        return log

    def open_log(self, run_id: str) -> "RunLog":
        """The log of a run, whose status stays what it is."""
        return RunLog(self, self._ask(lambda: self.client.get_run(run_id)))

    def _made_run(self, experiment_id: str, name: str, tags: dict[str, str]) -> "Run":
        """A new run; or the run that an earlier attempt made, if the server's answer was lost."""
        found = self._found_runs(experiment_id, where(CREATION, tags[CREATION]), 1)
        return found[0] if found else self.client.create_run(experiment_id, run_name=name, tags=tags)

    @property
    def takes_runs(self) -> bool:
        """Whether a new run can be made now: there is no server, or it answers."""
        return self.outbox is None or self.outbox.is_open

    def retry(self) -> None:
        """Delivers messages that wait for the server, if it is time to try again."""
        if self.outbox is not None:
            self.outbox.retry()

    def write(self, letter: Mapping[str, Any]) -> None:
        """Writes a letter about a run, now or as soon as the server takes it."""
        if self.outbox is not None:
            self.outbox.send(letter)
            return
        try:
            deliver(self.client, letter)
        except Exception as error:
            raise refusal(letter, error) from None

    def find_runs(
        self, experiment_id: str, filter_string: str, most: int = 1000, *, is_newest: bool = False
    ) -> list["Run"]:
        """The runs that match an MLflow filter, the oldest first; with `is_newest`, the newest first."""
        order = "DESC" if is_newest else "ASC"
        return self._ask(lambda: self._found_runs(experiment_id, filter_string, most, order))

    def _found_runs(self, experiment_id: str, filter_string: str, most: int, order: str = "ASC") -> list["Run"]:
        return list(
            self.client.search_runs(
                [experiment_id], filter_string, max_results=most, order_by=[f"attributes.start_time {order}"]
            )
        )

    def artifact_folder(self, run: "Run") -> Path:
        """The folder of a run's artifacts. With a server that keeps them, the folder where they wait to be sent."""
        location = urlparse(run.info.artifact_uri)
        if location.scheme in ("", "file"):
            return Path(os.fsdecode(unquote_to_bytes(location.path)))
        return self.folder / "outbox" / str(run.info.run_id)

    def keeps_artifacts(self, run: "Run") -> bool:
        """Whether a file in `artifact_folder` is an artifact, without sending it to a server."""
        return urlparse(run.info.artifact_uri).scheme in ("", "file")

    def add_artifact(self, run: "Run", path: str, content: bytes) -> None:
        """Writes an artifact of a run, completely or not at all; replaces one with the same path."""
        local = self.artifact_folder(run) / path
        write_whole(local, content)
        if not self.keeps_artifacts(run):
            self.client.log_artifact(run.info.run_id, str(local), str(Path(path).parent) if "/" in path else None)

    def artifact(self, run: "Run", path: str) -> Path:
        """The path of an artifact (file or folder) if it is local, else of a local copy."""
        local = self.artifact_folder(run) / path
        if self.keeps_artifacts(run):
            if not local.exists():
                name = run.info.run_name
                raise HarnessError(f"{name} ({run.info.run_id[:8]}) has no artifact {path}.", exit_code=FAILED)
            return local
        from mlflow.exceptions import MlflowException

        try:
            return Path(self.client.download_artifacts(run.info.run_id, path))
        except MlflowException as error:
            raise HarnessError(f"{self} gave no {path}: {error.message}", exit_code=FAILED) from None

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One process at a time creates or moves things: MLflow's migrations must not run at the same time."""
        if self._is_locked or not self.is_local or self.is_read_only:  # locked by this process, or not needed
            yield
            return
        with open(self.folder / "store.lock", "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self._is_locked = True
            try:
                yield
            finally:
                self._is_locked = False


class RunLog:
    """Writes one run into MLflow. Nothing is logged twice."""

    def __init__(self, store: Store, run: "Run") -> None:
        self._store, self._client = store, store.client
        self.run, self.run_id = run, str(run.info.run_id)
        self.folder = store.artifact_folder(run)
        self._logged: set[tuple[str, int]] = set()
        self._has_inputs = bool(run.inputs and run.inputs.dataset_inputs)
        self._metrics: list[tuple[str, float, int, int]] = []
        self._tags: dict[str, str] = {}

    def read_history(self) -> None:
        """Reads what the run has, so that nothing is logged a second time."""
        for name in self.run.data.metrics:
            for metric in self._client.get_metric_history(self.run_id, name):
                self._logged.add((name, metric.step))

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Logs hyperparameters, once."""
        missing = {name: str(value)[:6000] for name, value in params.items() if name not in self.run.data.params}
        if missing:
            self._write(params=missing)

    def add_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Queues metrics of a step for the next `send`, without those that the run has."""
        now = int(time.time() * 1000)
        for name, value in metrics.items():
            if (name, step) not in self._logged:
                self._logged.add((name, step))
                self._metrics.append((name, value, now, step))

    def add_tags(self, tags: Mapping[str, Any]) -> None:
        """Queues tags for the next `send`; a long one is cut to the length that MLflow takes."""
        self._tags |= {key: str(value)[:MOST_TAG] for key, value in tags.items()}

    def send(self) -> None:
        """Writes everything in the queue in one transaction: an epoch completely, or nothing of it."""
        while self._metrics or self._tags:
            metrics, self._metrics = self._metrics[:MOST_METRICS], self._metrics[MOST_METRICS:]
            tags, self._tags = self._tags, {}
            self._write(metrics=metrics, tags=tags)

    def log_dataset(self, name: str, digest: str, description: Mapping[str, Any]) -> None:
        """Records the data as an MLflow input, once."""
        if self._has_inputs:
            return
        self._has_inputs = True
        profile = json.dumps(dict(description), default=str)
        data = {"name": name, "digest": digest[:16], "source_type": "local", "source": profile, "profile": profile}
        self._write(dataset=data)

    def write_text(self, path: str, text: str) -> None:
        """Writes a text artifact, completely or not at all."""
        write_whole(self.folder / path, text)

    def end(self, status: str, outcome: str, reason: str | None = None) -> None:
        """Sends the queue and closes the run, with MLflow's status and the outcome as one word."""
        self.add_tags({STATUS: outcome} | ({REASON: reason} if reason else {}))
        self.send()
        if status != SCHEDULED:  # what a run that waits has so far is sent when the command ends
            self.upload()
        self._write(status=status, end_time=int(time.time() * 1000))

    def reopen(self) -> None:
        """Opens a run again that this process closed."""
        self.add_tags({STATUS: "running"})
        self._write(status=RUNNING)

    def upload(self) -> None:
        """Sends artifacts to the server, if it keeps them; else they are files in the right place already."""
        if not self._store.keeps_artifacts(self.run) and self.folder.exists():
            self._write(artifacts=str(self.folder))

    def _write(self, **letter: Any) -> None:
        self._store.write({"run": self.run_id} | letter)


def _place(path: Path) -> tuple[int, int] | None:
    """The identity of a folder or file: another one at the same path has another one. None if there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics without infinite ones, which MLflow would turn into the largest float."""
    return {name: value if math.isfinite(value) else math.nan for name, value in metrics.items()}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
