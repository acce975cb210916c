"""Registers the best run of an experiment in MLflow's model registry, with the alias `best`."""

import logging
import signal
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import HarnessError
from harness.machine import end_with_parent
from harness.processes import process_context, start_process
from harness.tracking.runs import find_best
from harness.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

ALIAS = "best"


def register_best(
    store: Store, experiment: str, say: Callable[[str], None], registrar: "Registrar | None" = None
) -> None:
    """Registers the best run of an experiment, unless it is the registered one; `registrar` is one that is ready.

    An error is printed and not raised: the runs are safe without it.
    """
    from mlflow.exceptions import MlflowException

    try:
        run = find_best(store, experiment)
        before = find_registered(store, experiment)
    except (HarnessError, MlflowException) as error:
        say(f"nothing was registered: {_first_line(error)}")
        return
    if before is None or before.run_id != run.info.run_id:
        say(f"exporting {run.info.run_name} for MLflow's model registry ...")
        say((registrar or Registrar(store)).register(run, experiment))
    elif registrar is not None:
        registrar.close()


def find_registered(store: Store, experiment: str) -> "ModelVersion | None":
    """The model version with the alias `best`, or None."""
    from mlflow.exceptions import MlflowException

    try:
        return store.client.get_model_version_by_alias(experiment, ALIAS)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no model, no alias
            return None
        raise


class Registrar:
    """Another process that exports and registers a run. It begins by loading what that takes: seconds."""

    def __init__(self, store: Store) -> None:
        context = process_context()
        self._ours, theirs = context.Pipe()
        self._process = start_process(context, _serve, theirs, store.folder, daemon=True)
        theirs.close()

    def register(self, run: "Run", experiment: str) -> str:
        """Exports and registers a run, and ends the process; returns a sentence about the result."""
        try:
            self._ours.send((run.info.run_id, experiment))
            told: str = self._ours.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            told = f"{run.info.run_name} could not be registered: the process that exports it was killed."
        finally:
            self.close()
        return told

    def close(self) -> None:
        """Ends the process, after what it is doing."""
        with suppress(BrokenPipeError, ConnectionResetError):  # it has ended
            self._ours.send(None)
        self._ours.close()
        self._process.join()


def _serve(connection: Connection, folder: Path) -> None:
    """Runs in the other process: sends a sentence about the one run that it is asked for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    import mlflow

    from harness.results.export import export, warm_up

    store = Store(folder)
    mlflow.set_tracking_uri(store.uri)  # where `models:/` is looked up
    mlflow.set_registry_uri(store.uri)
    client = store.client
    with suppress(Exception):  # what goes wrong here is told when the run is exported
        warm_up()
    try:
        asked = connection.recv()
    except EOFError:  # the parent has ended
        return
    if asked is None:  # there is nothing to register
        return
    run_id, name = asked
    run = client.get_run(run_id)
    try:
        version = export(store, run, name, alias=ALIAS)
        connection.send(f"registered as models:/{name}@{ALIAS} (version {version.version})")
    except Exception as error:  # a user's model can cause any error in torch.export
        connection.send(f"{run.info.run_name} could not be registered: {type(error).__name__}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
