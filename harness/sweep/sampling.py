"""Optuna's TPE for long studies: what an ask costs does not grow with the number of trials."""

import copy
import heapq
from collections.abc import Container
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

BEST, LATEST = 100, 400  # trials that TPE learns from
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


class LongTPE(BaseSampler):
    """TPE over the best and the latest trials of a study; the same as `TPESampler` while there are no more.

    TPE (Bergstra et al., 2011) models the best 25 trials or fewer, and all the others, each time anew. Of the
    others a few hundred tell as much as ten thousand.
    """

    def __init__(self, *, seed: int) -> None:
        self._tpe = TPESampler(seed=seed)
        self._excerpt: _Excerpt | None = None

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """That of any finished trial: a study's search space does not change."""
        self._excerpt = _Excerpt(study)
        ended = self._excerpt.get_trials(deepcopy=False, states=ENDED)
        found = ended[0].distributions if ended else {}
        return {name: found[name] for name in sorted(found) if not found[name].single()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._tpe.sample_relative(self._excerpt or _Excerpt(study), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._tpe.sample_independent(_Excerpt(study), trial, param_name, param_distribution)


class _Excerpt(optuna.Study):
    """A study that shows some of its trials: those that run, the best and the latest ones."""

    def __init__(self, study: optuna.Study) -> None:
        self.__dict__.update(study.__dict__)
        trials = study.get_trials(deepcopy=False)
        ended = [trial for trial in trials if trial.state in ENDED]
        if len(ended) > BEST + LATEST:
            complete = [trial for trial in ended if trial.state == TrialState.COMPLETE]
            pick = heapq.nlargest if study.direction == StudyDirection.MAXIMIZE else heapq.nsmallest
            best = pick(BEST, complete, key=lambda trial: trial.value or 0.0)
            kept = {trial.number for trial in best} | {trial.number for trial in ended[-LATEST:]}
            trials = [trial for trial in trials if trial.number in kept or not trial.state.is_finished()]
        self._excerpt = trials

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        found = [trial for trial in self._excerpt if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found
