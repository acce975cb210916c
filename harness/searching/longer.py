"""A study with more epochs than the one before: trials keep their numbers, and those that wait continue."""

import copy
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from harness.searching.study import BEFORE, EARLIER, KNOWN, RUN_ID, SEEN, WAITING, Study, waits


def is_longer(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether the identity of a study differs from that of an earlier one by more epochs, and by nothing else."""
    old, new = (identity.get("settings", {}).get("epochs") for identity in (before, after))
    if old is None or new is None or int(new) <= int(old):
        return False
    return before == {**after, "settings": {**after["settings"], "epochs": old}}


def has_waiting(study: optuna.Study) -> bool:
    """Whether trials of a study wait."""
    return any(trial.state == TrialState.RUNNING and waits(trial) for trial in study.get_trials(deepcopy=False))


def carry_trials(storage: BaseStorage, earlier: str, study: Study) -> None:
    """Gives a new study the trials of the study `earlier`, with the same numbers. After a kill, it continues.

    Trials that are open stay open. Those that ended are kept as what is known, and do not count.
    """
    trials = optuna.load_study(study_name=earlier, storage=storage).get_trials(deepcopy=False)
    for trial in trials[len(study.trials()) :]:
        study.optuna.add_trial(_carried(trial))
    study.count_trials()


def _carried(trial: FrozenTrial) -> FrozenTrial:
    carried = copy.deepcopy(trial)
    seen: dict[str, Any] = carried.user_attrs.get(SEEN, {"looks": [], "shared": [], "trained": 0})
    if not trial.state.is_finished():
        seen = {**seen, BEFORE: seen["trained"], "trained": 0}
    else:
        # What finished can continue; what diverged cannot.
        looks = [{**look, "outcome": WAITING} if look["outcome"] == "finished" else look for look in seen["looks"]]
        looks = [look for look in looks if look["outcome"] != "failed"]
        seen = {**seen, "looks": looks, "trained": 0}
        carried.state, carried.value = TrialState.PRUNED, None
        told = ("outcome", RUN_ID, "epochs", "reused_epochs", "saved_seconds", "reason")
        carried.user_attrs = {name: value for name, value in carried.user_attrs.items() if name not in told}
        carried.user_attrs["outcome"] = KNOWN if trial.user_attrs.get("outcome") == KNOWN else EARLIER
    if SEEN in carried.user_attrs:
        carried.user_attrs[SEEN] = seen
    return carried
