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


def estimate_importances(study: optuna.Study, results: Sequence[Sequence[int]], *, seed: int = 0) -> list[Importance]:
    """The importance of each hyperparameter that varied, by Optuna's default evaluator, the largest first.

    `results` are the numbers of the trials of each distinct result. A result counts once, with the values of one of
    its trials, drawn anew for each estimate: a value that is the same result as others is no evidence for it.
    Resampling the results with replacement shows how much of the estimate is chance. Empty where nothing varied.
    """
    complete = {t.number: t for t in study.trials if t.state == TrialState.COMPLETE and t.params}
    found_in = [[complete[number] for number in numbers if number in complete] for numbers in results]
    groups = [group for group in found_in if group]
    trials = [trial for group in groups for trial in group]
    names = varied_names(trials)
    if not names or len({trial.value for trial in trials}) < 2:
        return []
    generator = np.random.default_rng(seed)
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(RESAMPLES):
        drawn = [groups[i] for i in generator.integers(len(groups), size=min(len(groups), MOST))]
        chosen = [group[generator.integers(len(group))] for group in drawn]
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
