"""The study: Optuna's side of a sweep, in a journal that survives a kill at any moment."""

import hashlib
import itertools
import json
import math
import os
import random
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from harness.errors import HarnessError, did_you_mean
from harness.search import Hyperparameter, LogUniform
from harness.searching.sampler import History, LongTPE, Stepped
from harness.searching.space import grid_of

VALUES = "values"  # user attribute of a trial: the real values, as JSON
RUN_ID = "run_id"
UNTIL = "until"  # the epoch at which a trial that is trained in stages waits next
SEEN = "seen"  # what the search over the tree has noted of a trial
SENT = "sent"  # the epoch up to which a tracking server has the artifacts of a trial that waits
WAITING = "waiting"  # the outcome of a trial that waits and continues later
KNOWN = "known"  # the outcome of a point whose whole path was known when it was proposed
EARLIER = "earlier"  # the outcome of a trial that ended in an earlier study, which had fewer epochs
UNCOUNTED = (KNOWN, EARLIER)
CARRIES = "carries"  # user attribute of a study: the name of the earlier study whose trials it has, or None
BEFORE = "before"  # in what is noted of a trial: epochs that it trained in an earlier study
RANDOM_FIRST = 10  # random trials before TPE is used, as in Optuna
MOST_DRAWS = 100
PRUNERS = ("median", "hyperband", "successive_halving")


@dataclass(frozen=True, kw_only=True)
class OpenTrial:
    """An Optuna trial that has not ended, with its values. Its run reports to it."""

    study: "Study"
    trial: Trial
    number: int
    values: dict[str, Any]
    run_id: str | None = None  # of an interrupted trial
    was_interrupted: bool = False
    until: int | None = None  # the epoch at which it waits next
    reported: set[int] = field(default_factory=set)  # epochs

    def note_run(self, run_id: str) -> None:
        """Stores the id of this trial's MLflow run."""
        self.trial.set_user_attr(RUN_ID, run_id)

    def report(self, epoch: int, value: float) -> bool:
        """Reports an epoch's value; returns whether the pruner lets the trial continue."""
        if epoch not in self.reported:
            self.reported.add(epoch)
            self.trial.report(value, epoch)
        return self.study.pruner is None or not self.trial.should_prune()

    def begin_stage(self, until: int) -> None:
        """Stores the epoch until which the trial is trained now."""
        self.trial.set_user_attr(UNTIL, until)

    def note_seen(self, seen: Mapping[str, Any]) -> None:
        """Stores what the search has noted of this trial."""
        self.trial.set_user_attr(SEEN, seen)

    def note_sent(self, epoch: int) -> None:
        """Stores the epoch up to which a tracking server has its artifacts."""
        self.trial.set_user_attr(SENT, epoch)

    def end(self, outcome: str, value: float | None, details: Mapping[str, Any]) -> None:
        """Tells the study how the run ended, or that it waits."""
        for name, detail in details.items():
            self.trial.set_user_attr(name, detail)
        if outcome != WAITING:
            self.study.tell(self.trial, outcome, value)


def trial_name(number: int) -> str:
    """The name of a trial and of its run."""
    return f"trial-{number:04d}"


class Study:
    """The search over the hyperparameters of one spec. Suggestions depend on the seed and the trial's number."""

    def __init__(
        self,
        storage: BaseStorage,
        name: str,
        hyperparameters: Mapping[str, Hyperparameter],
        *,
        objective: str,
        direction: str,
        seed: int,
        sampler: str,
        pruner: Any,
        identity: Mapping[str, Any],
        number: int = 1,
        carries: str | None = None,
    ) -> None:
        self._searched = dict(hyperparameters)
        self._seed, self._sampler_name, self._storage = seed, sampler, storage
        self._draws: tuple[int, dict[str, Any]] | None = None  # a trial's number, and what was drawn for it
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
        if is_unfinished(self._study):
            self._study.set_user_attr("uid", os.urandom(6).hex())
            self._study.set_user_attr("number", number)
            self._study.set_user_attr(CARRIES, carries)
            self._study.set_user_attr("identity", json.dumps(identity, default=repr))
        self.number = int(self._study.user_attrs.get("number", number))  # among the studies of its spec
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if self._study.metric_names is None:
                self._study.set_metric_names([objective])
        self.count_trials()

    def count_trials(self) -> None:
        """Reads the trials of the storage."""
        trials = self.trials()  # once: listing thousands takes its time
        self.count: int = sum(trial.user_attrs.get("outcome") not in UNCOUNTED for trial in trials)
        self.next_number = len(trials)
        self._history = History(self._study, trials)

    @property
    def uid(self) -> str:
        """The id of this study: it differs from those of earlier studies of the same spec."""
        return str(self._study.user_attrs["uid"])

    @property
    def optuna(self) -> optuna.Study:
        """The `optuna.Study`."""
        return self._study

    def trials(self) -> list[FrozenTrial]:
        """All trials so far."""
        return self._study.get_trials(deepcopy=False)

    def interrupted(self) -> list[OpenTrial]:
        """The trials that were running, or about to start, when the last sweep ended. They are finished first."""
        trials = self.trials()
        for _ in [frozen for frozen in trials if frozen.state == TrialState.WAITING]:
            self._study.ask()  # makes the enqueued values a running trial
            trials = self.trials()
        running = [frozen for frozen in trials if frozen.state == TrialState.RUNNING]
        return [self._open(Trial(self._study, t._trial_id), t) for t in running if not waits(t)]

    def waiting(self) -> list[OpenTrial]:
        """The trials that wait."""
        running = [frozen for frozen in self.trials() if frozen.state == TrialState.RUNNING]
        return [self._open(Trial(self._study, t._trial_id), t) for t in running if waits(t)]

    def ask(self, values: Mapping[str, Any] | None = None, *, until: int | None = None) -> OpenTrial:
        """A new trial, with the sampler's values or those given; `until` is the epoch at which it waits first."""
        if values is not None:
            recorded = {name: self._searched[name].recorded(values[name]) for name in self._searched}
            self._study.enqueue_trial(recorded, user_attrs={} if until is None else {UNTIL: until})
        trial = self._study.ask()
        self.count, self.next_number = self.count + 1, trial.number + 1
        asked = self._open(trial, None)
        self._history.add(self._storage.get_trial(trial._trial_id))
        return asked

    def tell_known(self, asked: OpenTrial, value: float | None) -> None:
        """Ends a trial whose whole path was known when it was proposed; it does not count."""
        asked.trial.set_user_attr("outcome", KNOWN)
        self.tell(asked.trial, "finished" if value is not None else "pruned", value)
        self.count -= 1

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

    def values_of(self, trial: FrozenTrial) -> dict[str, Any]:
        """The values of a trial that was asked for before."""
        fixed = optuna.trial.FixedTrial(trial.params)
        return {name: found.suggest(fixed, name) for name, found in self._searched.items()}

    def best(self) -> FrozenTrial | None:
        """The best finished trial."""
        finished = [trial for trial in self.trials() if trial.state == TrialState.COMPLETE]
        is_better = max if self._study.direction == StudyDirection.MAXIMIZE else min
        return is_better(finished, key=lambda trial: trial.value or 0.0) if finished else None

    def note_recipe(self, recipe: Mapping[str, Any]) -> list[str]:
        """Stores the recipe of this sweep; returns what changed in it since the last one."""
        before = self._study.user_attrs.get("recipe")
        self._study.set_user_attr("recipe", json.dumps(recipe))
        if before is None:
            return []
        old = json.loads(before)["rest"]
        return [
            f"{name}: {old.get(name)} before, {new} now" for name, new in recipe["rest"].items() if old.get(name) != new
        ]

    def _open(self, trial: Trial, frozen: FrozenTrial | None) -> OpenTrial:
        """The trial's values. Values that are drawn together come from one generator; each of the others has a
        generator of its own. So a trial that was killed between two of them gets the same values again."""
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
            until=trial.user_attrs.get(UNTIL),
            reported=set(frozen.intermediate_values) if frozen else set(),
        )

    def _sampler(self, number: int, name: str) -> BaseSampler:
        source = f"{self._seed}/{number}/{name}"
        seed = int.from_bytes(hashlib.sha256(source.encode()).digest()[:4], "big")
        if self._sampler_name == "tpe" and self._searched and number >= RANDOM_FIRST:
            steps = {n: h for n, h in self._searched.items() if isinstance(h, LogUniform) and h.count is not None}
            return Stepped(LongTPE(self._history, seed=seed), steps)
        point = self._grid_point(number) if self._sampler_name == "grid" else self._drawn(number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return PartialFixedSampler(point, RandomSampler(seed=seed))

    def _drawn(self, number: int) -> dict[str, Any]:
        """Random values that depend on the trial's number; not those of an earlier trial, if there are others."""
        if self._draws is None or self._draws[0] != number:
            earlier = {repr(sorted(trial.params.items())) for trial in self._earlier(number)}
            for attempt in range(MOST_DRAWS):
                chance = random.Random(f"{self._seed}/{number}/{attempt}")
                values = {name: found.recorded(found.draw(chance.random())) for name, found in self._searched.items()}
                if repr(sorted(values.items())) not in earlier:
                    break
            self._draws = number, values
        return self._draws[1]

    def _earlier(self, number: int) -> list[FrozenTrial]:
        return [trial for trial in self._history.trials() if trial.number < number]

    def _grid_point(self, number: int) -> dict[str, Any]:
        """The point of the grid for a trial. The order of the points is random and depends on the seed."""
        grid = grid_of(self._searched)
        points = list(itertools.product(*grid.values()))
        random.Random(self._seed).shuffle(points)
        point = dict(zip(grid, points[number % len(points)], strict=True))
        return {name: self._searched[name].recorded(value) for name, value in point.items()}


def is_unfinished(study: optuna.Study) -> bool:
    """Whether the command that made a study was killed before the study was complete: it has no identity."""
    return "identity" not in study.user_attrs and not study.get_trials(deepcopy=False)


def waits(trial: FrozenTrial) -> bool:
    """Whether a trial has reached the epoch at which it waits."""
    seen = trial.user_attrs.get(SEEN, {"looks": []})["looks"]
    return bool(seen) and seen[-1]["epochs"] == trial.user_attrs.get(UNTIL)


def build_pruner(setting: Any) -> BasePruner | None:
    """The Optuna pruner of the setting `pruner`; None trains every trial to its end."""
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
