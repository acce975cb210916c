"""Estimates which hyperparameters matter, by Optuna, with the uncertainty of the estimate."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

RESAMPLES = 24
MOST = 200  # results in one estimate: more of them cost time and change little
TAIL = 0.1  # of the resamples, left out at each end


@dataclass(frozen=True, kw_only=True)
class Importance:
    """The importance of a hyperparameter: the median over resamples, and the range of most of them."""

    name: str
    value: float
    low: float
    high: float


def estimate_importances(study: optuna.Study, numbers: Sequence[int], *, seed: int = 0) -> list[Importance]:
    """The importance of each hyperparameter that varied, by Optuna's default evaluator, the largest first.

    `numbers` are the trials to count, one for each distinct result: copies of a result are no evidence. Resampling
    them with replacement shows how much of the estimate is chance. Empty where nothing varied.
    """
    wanted = set(numbers)
    trials = [
        trial
        for trial in study.trials
        if trial.number in wanted and trial.state == TrialState.COMPLETE and trial.params
    ]
    names = varied_names(trials)
    if not names or len({trial.value for trial in trials}) < 2:
        return []
    generator = np.random.default_rng(seed)
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(RESAMPLES):
        chosen = [trials[i] for i in generator.integers(len(trials), size=min(len(trials), MOST))]
        if len({trial.value for trial in chosen}) < 2:
            continue
        for name, share in _evaluate(study, chosen, names).items():
            found[name].append(share)
    importances = [
        Importance(
            name=name,
            value=float(np.median(shares)),
            low=float(np.quantile(shares, TAIL)),
            high=float(np.quantile(shares, 1 - TAIL)),
        )
        for name, shares in found.items()
        if shares
    ]
    return sorted(importances, key=lambda importance: -importance.value)


def varied_names(trials: Sequence[FrozenTrial]) -> list[str]:
    """The hyperparameters that all trials have, and not all with the same value."""
    names = [name for name in (trials[0].params if trials else ()) if all(name in trial.params for trial in trials)]
    return [name for name in names if len({repr(trial.params[name]) for trial in trials}) > 1]


def _evaluate(study: optuna.Study, trials: Sequence[FrozenTrial], names: Sequence[str]) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sample = optuna.create_study(storage=optuna.storages.InMemoryStorage(), direction=study.direction)
        sample.add_trials(trials)
        varied = [name for name in names if len({repr(trial.params[name]) for trial in trials}) > 1]
        found = optuna.importance.get_param_importances(sample, params=varied) if varied else {}
    return {name: float(found.get(name, 0.0)) for name in names}
