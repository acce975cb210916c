"""Registers the best run of an experiment in MLflow's model registry, with the alias `best`."""

import logging
import signal
import warnings
from collections.abc import Callable
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


def register_best(store: Store, experiment: str, say: Callable[[str], None]) -> None:
    """Registers the best run of an experiment, unless it is the registered one.

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
        say(_export_apart(store, run, experiment))


def find_registered(store: Store, experiment: str) -> "ModelVersion | None":
    """The model version with the alias `best`, or None."""
    from mlflow.exceptions import MlflowException

    try:
        return store.client.get_model_version_by_alias(experiment, ALIAS)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no model, no alias
            return None
        raise


def _export_apart(store: Store, run: "Run", experiment: str) -> str:
    """Exports and registers a run in another process, which loads torch; returns a sentence about the result."""
    context = process_context()
    ours, theirs = context.Pipe(duplex=False)
    process = start_process(context, _export, theirs, store.folder, run.info.run_id, experiment, daemon=True)
    theirs.close()
    try:
        told: str = ours.recv()
    except EOFError:
        process.join()
        told = f"{run.info.run_name} could not be registered: the process that exports it was killed."
    finally:
        ours.close()
    process.join()
    return told


def _export(answer: Connection, folder: Path, run_id: str, name: str) -> None:
    """Runs in the other process: sends a sentence about the result."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    import mlflow

    from harness.results.export import export

    store = Store(folder)
    mlflow.set_tracking_uri(store.uri)  # where `models:/` is looked up
    mlflow.set_registry_uri(store.uri)
    run = store.client.get_run(run_id)
    try:
        version = export(store, run, name, alias=ALIAS)
        answer.send(f"registered as models:/{name}@{ALIAS} (version {version.version})")
    except Exception as error:  # a user's model can cause any error in torch.export
        answer.send(f"{run.info.run_name} could not be registered: {type(error).__name__}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
