"""The study: Optuna's side of a sweep, in a journal that survives a kill at any moment."""

import hashlib
import itertools
import json
import math
import os
import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from harness.errors import HarnessError, did_you_mean
from harness.search import Hyperparameter
from harness.searching.sampler import History, LongTPE

VALUES = "values"  # user attribute of a trial: the real values, as JSON
RUN_ID = "run_id"
PRUNERS = ("median", "hyperband", "successive_halving")


@dataclass(frozen=True, kw_only=True)
class OpenTrial:
    """A trial of Optuna's that has not ended, with its values. Its run reports to it."""

    study: "Study"
    trial: Trial
    number: int
    values: dict[str, Any]
    run_id: str | None = None  # of an interrupted trial
    was_interrupted: bool = False
    reported: set[int] = field(default_factory=set)  # epochs

    def note_run(self, run_id: str) -> None:
        """Keeps which MLflow run is this trial's."""
        self.trial.set_user_attr(RUN_ID, run_id)

    def report(self, epoch: int, value: float) -> bool:
        """Reports an epoch's value; whether the pruner lets the trial go on."""
        if epoch not in self.reported:
            self.reported.add(epoch)
            self.trial.report(value, epoch)
        return self.study.pruner is None or not self.trial.should_prune()

    def end(self, outcome: str, value: float | None, details: Mapping[str, Any]) -> None:
        """Tells the study how the run ended."""
        for name, detail in details.items():
            self.trial.set_user_attr(name, detail)
        self.study.tell(self.trial, outcome, value)


class Study:
    """The search over the hyperparameters of one spec. Suggestions depend on the seed and the trial's number."""

    def __init__(
        self,
        storage: BaseStorage,
        name: str,
        hyperparameters: Mapping[str, Hyperparameter],
        *,
        direction: str,
        seed: int,
        sampler: str,
        pruner: Any,
        identity: Mapping[str, Any],
        number: int = 1,
    ) -> None:
        self._searched = dict(hyperparameters)
        self._seed, self._sampler_name, self._storage = seed, sampler, storage
        self.pruner = build_pruner(pruner)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study = optuna.create_study(
                storage=storage,
                study_name=name,
                direction=StudyDirection[direction.upper()],
                pruner=self.pruner or optuna.pruners.NopPruner(),
                load_if_exists=True,
            )
        if "identity" not in self._study.user_attrs:
            self._study.set_user_attr("identity", json.dumps(identity, default=repr))
            self._study.set_user_attr("uid", os.urandom(6).hex())
            self._study.set_user_attr("number", number)
        self.number = int(self._study.user_attrs.get("number", number))  # among the studies of its spec
        trials = self.trials()  # once: listing thousands takes its time
        self.count = len(trials)
        self._history = History(self._study, trials)

    @property
    def uid(self) -> str:
        """What tells this study from earlier ones of the same spec."""
        return str(self._study.user_attrs["uid"])

    @property
    def optuna(self) -> optuna.Study:
        """Optuna's own object."""
        return self._study

    def trials(self) -> list[FrozenTrial]:
        """All trials so far."""
        return self._study.get_trials(deepcopy=False)

    def interrupted(self) -> list[OpenTrial]:
        """The trials that were being trained when the last sweep ended, to be finished first."""
        return [
            self._open(Trial(self._study, frozen._trial_id), frozen)
            for frozen in self.trials()
            if frozen.state == TrialState.RUNNING
        ]

    def ask(self) -> OpenTrial:
        """A new trial, with its values."""
        trial = self._study.ask()
        self.count = trial.number + 1
        asked = self._open(trial, None)
        self._history.add(self._storage.get_trial(trial._trial_id))
        return asked

    def tell(self, trial: Trial, outcome: str, value: float | None) -> None:
        """Ends a trial: `finished`, `pruned`, `diverged` or `failed`.

        A diverged trial is told as pruned: the sampler takes it for a bad one, and learns from it.
        """
        if outcome == "finished" and value is not None and math.isfinite(value):
            ended = self._study.tell(trial, value, state=TrialState.COMPLETE)
        else:
            state = TrialState.FAIL if outcome == "failed" else TrialState.PRUNED
            ended = self._study.tell(trial, state=state)
        self._history.add(ended)

    def best(self) -> FrozenTrial | None:
        """The best finished trial."""
        finished = [trial for trial in self.trials() if trial.state == TrialState.COMPLETE]
        is_better = max if self._study.direction == StudyDirection.MAXIMIZE else min
        return is_better(finished, key=lambda trial: trial.value or 0.0) if finished else None

    def note_recipe(self, recipe: Mapping[str, Any]) -> list[str]:
        """Keeps the recipe of this sweep; what changed in it since the last one."""
        before = self._study.user_attrs.get("recipe")
        self._study.set_user_attr("recipe", json.dumps(recipe))
        if before is None:
            return []
        old = json.loads(before)["rest"]
        return [
            f"{name}: {old.get(name)} before, {new} now" for name, new in recipe["rest"].items() if old.get(name) != new
        ]

    def _open(self, trial: Trial, frozen: FrozenTrial | None) -> OpenTrial:
        """The trial's values. Those that are drawn together come from one generator, those that are drawn
        alone from one each: a trial that was killed between two of them gets the same ones again."""
        number = trial.number
        self._study.sampler = self._sampler(number, "")
        assert trial.relative_params is not None  # drawn here
        values = {}
        for name, hyperparameter in self._searched.items():
            self._study.sampler = self._sampler(number, name)
            values[name] = hyperparameter.suggest(trial, name)
        shown = json.dumps(values, default=repr)
        if trial.user_attrs.get(VALUES) != shown:
            trial.set_user_attr(VALUES, shown)
        return OpenTrial(
            study=self,
            trial=trial,
            number=number,
            values=values,
            run_id=trial.user_attrs.get(RUN_ID),
            was_interrupted=frozen is not None,
            reported=set(frozen.intermediate_values) if frozen else set(),
        )

    def _sampler(self, number: int, name: str) -> BaseSampler:
        seed = int.from_bytes(hashlib.sha256(f"{self._seed}/{number}/{name}".encode()).digest()[:4], "big")
        if not self._searched or self._sampler_name == "random":
            return RandomSampler(seed=seed)
        if self._sampler_name == "grid":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return PartialFixedSampler(self._grid_point(number), RandomSampler(seed=seed))
        return LongTPE(self._history, seed=seed)

    def _grid_point(self, number: int) -> dict[str, Any]:
        """The point of the grid that a trial gets: all of them in a random order that the seed fixes."""
        grid = _grid(self._searched)
        points = list(itertools.product(*grid.values()))
        random.Random(self._seed).shuffle(points)
        return dict(zip(grid, points[number % len(points)], strict=True))


class GridOf:
    """Stands in for a trial to learn all values that a hyperparameter could be given."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        if step is None:
            raise HarnessError(f"sampler 'grid' needs steps, and {name} has none: give it a step= or points=.")
        self.values = [low + step * i for i in range(round((high - low) / step) + 1)]
        return low

    def suggest_int(self, name: str, low: int, high: int, *, step: int) -> int:
        self.values = list(range(low, high + 1, step))
        return low

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self.values = list(choices)
        return choices[0]


def grid_size(hyperparameters: Mapping[str, Hyperparameter]) -> int:
    """How many combinations a stepped search space has; raises `HarnessError` where one has no steps."""
    return math.prod(len(values) for values in _grid(hyperparameters).values())


def _grid(hyperparameters: Mapping[str, Hyperparameter]) -> dict[str, list[Any]]:
    grid = {}
    for name, hyperparameter in hyperparameters.items():
        values = GridOf()
        hyperparameter.suggest(values, name)
        grid[name] = values.values
    return grid


def build_pruner(setting: Any) -> BasePruner | None:
    """The pruner that `pruner = ...` means; None trains every trial to its end."""
    if setting is None or isinstance(setting, BasePruner):
        return setting
    match setting:
        case "median":
            return optuna.pruners.MedianPruner()
        case "hyperband":
            return optuna.pruners.HyperbandPruner()
        case "successive_halving":
            return optuna.pruners.SuccessiveHalvingPruner()
    raise HarnessError(
        f"pruner must be None, {', '.join(map(repr, PRUNERS))} or an Optuna pruner, not {setting!r}."
        f"{did_you_mean(str(setting), PRUNERS)}"
    )
