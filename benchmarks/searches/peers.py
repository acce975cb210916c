"""Searches of other libraries over a table. Each trial is a plain loop: nothing is shared, nothing known beforehand."""

import datetime
import logging
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from harness.search import Choice
from searches.replay import Replay, Search


def levels(made: Replay) -> dict[str, list[Any]]:
    """All values of each hyperparameter."""
    return {name: found.grid() or [] for name, found in made.table.searched.items()}


def numbers(made: Replay) -> dict[tuple[Any, ...], int]:
    """The number of each configuration by its values."""
    return {tuple(point.values()): number for number, point in enumerate(made.table.points)}


def train_all(made: Replay, point: int, goes_on: Callable[[int, float], bool]) -> float | None:
    """Trains a configuration until `goes_on` says no; its best value, None where it did not come to its end."""
    made.begin(point)
    best = np.inf
    for epoch in range(made.table.lengths[point]):
        value = made.train(point)
        best = min(best, value)
        if not np.isfinite(value) or not goes_on(epoch, value):
            return None
    return float(best)


def optuna_search(sampler: str, pruner: str | None) -> Search:
    """Optuna: steps are integers for it, options are categories."""

    def search(made: Replay, seed: int) -> None:
        import optuna

        warnings.simplefilter("ignore")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        epochs = made.table.values.shape[1]
        samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
        pruners = {
            "median": optuna.pruners.MedianPruner,
            "hyperband": lambda: optuna.pruners.HyperbandPruner(3, epochs, 3),
            None: optuna.pruners.NopPruner,
        }
        study = optuna.create_study(
            sampler=samplers[sampler](seed=seed), pruner=pruners[pruner](), study_name=str(seed)
        )
        index = numbers(made)
        while True:
            trial = study.ask()
            values = [
                trial.suggest_categorical(name, steps)
                if isinstance(made.table.searched[name], Choice)
                else steps[trial.suggest_int(name, 0, len(steps) - 1)]
                for name, steps in levels(made).items()
            ]

            def goes_on(epoch: int, value: float, trial: Any = trial) -> bool:
                trial.report(value, epoch)
                return not trial.should_prune()

            best = train_all(made, index[tuple(values)], goes_on)
            if best is None:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            else:
                study.tell(trial, best)

    return search


def ray_asha(grace: int, factor: int) -> Search:
    """Ray Tune's asynchronous halving, which stops trials; random configurations."""

    def search(made: Replay, seed: int) -> None:
        from ray.tune.schedulers.async_hyperband import _Bracket

        class Trial:
            def __init__(self, number: int) -> None:
                self.trial_id = number

        chance = random.Random(seed)
        bracket = _Bracket(grace, made.table.values.shape[1], factor, 0)
        number = 0
        while True:
            number += 1
            trial = Trial(number)
            point = chance.randrange(len(made.table.points))
            train_all(made, point, lambda e, v, t=trial: bracket.on_result(t, e + 1, -v) != "STOP")

    return search


def syne(scheduler: str, **options: Any) -> Search:
    """Syne Tune's asynchronous halving, with random configurations or with a model."""

    def search(made: Replay, seed: int) -> None:
        from syne_tune.backend.trial_status import Trial
        from syne_tune.config_space import choice, randint
        from syne_tune.optimizer import baselines

        logging.disable(logging.WARNING)
        warnings.simplefilter("ignore")
        np.random.seed(seed)
        steps = levels(made)
        is_choice = {name: isinstance(found, Choice) for name, found in made.table.searched.items()}
        space = {n: choice(values) if is_choice[n] else randint(0, len(values) - 1) for n, values in steps.items()}
        epochs = made.table.values.shape[1]
        asked = getattr(baselines, scheduler)(
            space, metric="value", time_attr="epoch", max_t=epochs, random_seed=seed, **options
        )
        index = numbers(made)
        number = 0
        while True:
            config = asked.suggest().config
            values = [config[n] if is_choice[n] else steps[n][config[n]] for n in steps]
            trial = Trial(number, config, datetime.datetime.now())
            number += 1
            asked.on_trial_add(trial)

            def goes_on(epoch: int, value: float, trial: Any = trial) -> bool:
                told = {"value": value, "epoch": epoch + 1}
                if epoch + 1 == epochs:
                    asked.on_trial_complete(trial, told)
                    return True
                goes = asked.on_trial_result(trial, told) != "STOP"
                if not goes:
                    asked.on_trial_remove(trial)
                return bool(goes)

            train_all(made, index[tuple(values)], goes_on)

    return search


PEERS: dict[str, Search] = {
    "Optuna random": optuna_search("random", None),
    "Optuna TPE": optuna_search("tpe", None),
    "Optuna TPE, median pruner": optuna_search("tpe", "median"),
    "Optuna TPE, Hyperband": optuna_search("tpe", "hyperband"),
    "Ray Tune ASHA (1, 4)": ray_asha(1, 4),
    "Ray Tune ASHA (2, 3)": ray_asha(2, 3),
    "Syne Tune ASHA": syne("ASHA", grace_period=2),
    "Syne Tune BOHB": syne("BOHB"),
}
