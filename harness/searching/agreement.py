"""Checks that the study and MLflow have the same trials. If not, the user decides, and nothing is trained twice."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import optuna
from optuna.storages import BaseStorage

from harness.errors import FAILED, HarnessError
from harness.searching.study import UNCOUNTED
from harness.tracking.store import Store
from harness.tracking.tags import KIND, STUDY, SWEEP, TRIAL, TRIAL_KIND, where

if TYPE_CHECKING:
    from mlflow.entities import Run

NEWEST = 64  # newest runs that are checked: trials start in the order of their numbers


def check_agreement(store: Store, experiment_id: str, study: optuna.Study | None, *, uids: Collection[str]) -> None:
    """Raises `HarnessError` if runs belong to trials that neither the study nor one of the studies `uids` has.

    It also raises if every run of the study was deleted in MLflow.
    """
    if study is None:
        runs = _newest(store, experiment_id, where(KIND, TRIAL_KIND))
        lost = [run for run in runs if run.data.tags.get(STUDY) not in uids]
        if lost:
            raise _missing("no study", f"{lost[0].info.run_name} and others")
        return
    uid = study.user_attrs.get("uid", "")
    runs = _newest(store, experiment_id, where(STUDY, uid))
    numbers = [int(text) for run in runs if (text := run.data.tags.get(TRIAL, "")).isdecimal()]
    count = len(study.trials)
    if numbers and max(numbers) >= count:
        raise _missing(f"{count} trial{'s' * (count != 1)}", f"trial-{max(numbers):04d}")
    counted = [trial for trial in study.trials if trial.user_attrs.get("outcome") not in UNCOUNTED]
    ended = [trial for trial in counted if trial.state.is_finished()]
    if ended and not runs:
        raise HarnessError(
            f"all runs of the study's {len(ended)} trials were deleted in MLflow. "
            "Restore them there, or start a new study with --fresh.",
            exit_code=FAILED,
        )


def last_sweep(store: Store, experiment_id: str) -> int:
    """The highest study number among the newest runs; 0 if there is none."""
    runs = _newest(store, experiment_id, where(KIND, TRIAL_KIND))
    return max((int(text) for run in runs if (text := run.data.tags.get(SWEEP, "")).isdecimal()), default=0)


def study_uids(storage: BaseStorage) -> set[str]:
    """The ids of all studies of a storage."""
    return {str(found.user_attrs.get("uid")) for found in optuna.get_all_study_summaries(storage)}


def _newest(store: Store, experiment_id: str, which: str) -> Sequence["Run"]:
    return [run for run in store.find_runs(experiment_id, which, NEWEST, is_newest=True) if store.owns(run)]


def _missing(has: str, run: str) -> HarnessError:
    return HarnessError(
        f"optuna.log (or the database of --study-storage) has {has}, and MLflow has the runs of more: {run}. "
        "Restore what is missing, or start a new study with --fresh: the earlier runs are kept.",
        exit_code=FAILED,
    )
