"""Optuna's TPE for long studies: the cost of a proposal does not grow with the number of trials."""

import copy
import heapq
from collections import deque
from collections.abc import Container, Iterable, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from harness.search import LogUniform

BEST, LATEST = 100, 400  # ended trials that TPE learns from
FEW = 16  # running trials that are read one by one; each of them opens Optuna's journal
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


class History:
    """The trials of a study that its sampler looks at: those that run, the latest, and the best of the earlier ones.

    For each proposal, TPE (Bergstra et al., 2011) models the best 25 trials or fewer, and all others. Of the others,
    a few hundred are as informative as ten thousand.
    """

    def __init__(self, study: optuna.Study, trials: Iterable[FrozenTrial]) -> None:
        self._study = study
        self._sign = 1 if study.direction == StudyDirection.MAXIMIZE else -1
        self._running: dict[int, int] = {}
        self._latest: deque[FrozenTrial] = deque()
        self._best: list[tuple[float, int, FrozenTrial]] = []  # a heap with the worst trial on top
        for trial in trials:
            self.add(trial)

    def add(self, trial: FrozenTrial) -> None:
        """Takes note of a trial that has started or ended."""
        if trial.state == TrialState.RUNNING:
            self._running[trial.number] = trial._trial_id
            return
        self._running.pop(trial.number, None)
        if trial.state in ENDED:
            self._latest.append(trial)
        if len(self._latest) > LATEST:
            earlier = self._latest.popleft()
            if earlier.state == TrialState.COMPLETE:
                heapq.heappush(self._best, (self._sign * (earlier.value or 0.0), -earlier.number, earlier))
        if len(self._best) > BEST:
            heapq.heappop(self._best)

    def trials(self) -> list[FrozenTrial]:
        """Those trials, in the order of their numbers."""
        storage = self._study._storage
        if len(self._running) <= FEW:
            running = [storage.get_trial(trial_id) for trial_id in self._running.values()]
        else:
            every = storage.get_all_trials(self._study._study_id, deepcopy=False, states=(TrialState.RUNNING,))
            running = [trial for trial in every if trial.number in self._running]
        found = [*(trial for _, _, trial in self._best), *self._latest, *running]
        return sorted(found, key=lambda trial: trial.number)


class LongTPE(BaseSampler):
    """TPE over the history of a study: equal to `TPESampler` as long as the history has all trials."""

    def __init__(self, history: History, *, seed: int) -> None:
        self._history = history
        self._tpe = TPESampler(seed=seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The search space of any ended trial: it is the same for the whole study."""
        ended = (known for known in self._history.trials() if known.state in ENDED)
        first = next(ended, None)
        found = {} if first is None else first.distributions
        return {name: found[name] for name in sorted(found) if not found[name].single()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._tpe.sample_relative(_Excerpt(study, self._history), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._tpe.sample_independent(_Excerpt(study, self._history), trial, param_name, param_distribution)


class Stepped(BaseSampler):
    """Moves another sampler's values to the steps of a log scale: Optuna has no stepped log scale for floats."""

    def __init__(self, sampler: BaseSampler, steps: Mapping[str, LogUniform]) -> None:
        self._sampler, self._steps = sampler, steps

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        wide = {name: self._widened(name, found) for name, found in search_space.items()}
        sampled = self._sampler.sample_relative(study, trial, wide)
        return {name: self._snapped(name, value) for name, value in sampled.items()}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        wide = self._widened(param_name, param_distribution)
        return self._snapped(param_name, self._sampler.sample_independent(study, trial, param_name, wide))

    def _widened(self, name: str, distribution: BaseDistribution) -> BaseDistribution:
        """The range with half a step more at both ends: so the first and the last step are as likely as the others."""
        if name not in self._steps or not isinstance(distribution, FloatDistribution):
            return distribution
        low, high = distribution.low, distribution.high
        half = (high / low) ** (0.5 / ((self._steps[name].count or 2) - 1))
        return FloatDistribution(low / half, high * half, log=True)

    def _snapped(self, name: str, value: Any) -> Any:
        return self._steps[name].snap(value) if name in self._steps else value


class _Excerpt(optuna.Study):
    """A study that shows some of its trials."""

    def __init__(self, study: optuna.Study, history: History) -> None:
        self.__dict__.update(study.__dict__)
        self._excerpt = history.trials()

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        found = [trial for trial in self._excerpt if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found
