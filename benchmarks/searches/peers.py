"""Searches of other libraries. Each trial is a plain loop: nothing is shared, nothing known beforehand."""

import datetime
import logging
import random
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from harness.search import Choice, Hyperparameter, LogUniform
from searches.replay import Replay, Search


def kind(found: Hyperparameter) -> str:
    """How a hyperparameter is offered to other libraries: `options`, `step` (its number), `log` or `linear`."""
    if isinstance(found, Choice):
        return "options"
    return "step" if found.grid() is not None else "log" if isinstance(found, LogUniform) else "linear"


def limits(found: Any) -> tuple[Any, Any]:
    """The lowest and the highest value that is offered, both included."""
    steps = found.grid()
    return (found.low, found.high) if steps is None else (0, len(steps) - 1)


def number(made: Replay, answers: Mapping[str, Any]) -> int:
    """The number of the configuration that a library answered."""

    def value(found: Any, answer: Any) -> Any:
        return found.grid()[answer] if kind(found) == "step" else answer

    return made.land.find({name: value(found, answers[name]) for name, found in made.land.searched.items()})


def train_all(made: Replay, point: int, goes_on: Callable[[int, float], bool]) -> float | None:
    """Trains a configuration until `goes_on` says no; its best value, None where it did not come to its end."""
    made.begin(point)
    best = np.inf
    for epoch in range(made.land.length(point)):
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
        epochs = made.land.epochs
        samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
        pruners = {
            "median": optuna.pruners.MedianPruner,
            "hyperband": lambda: optuna.pruners.HyperbandPruner(3, epochs, 3),
            None: optuna.pruners.NopPruner,
        }
        study = optuna.create_study(
            sampler=samplers[sampler](seed=seed), pruner=pruners[pruner](), study_name=str(seed)
        )

        def suggest(trial: Any, name: str, found: Hyperparameter) -> Any:
            if kind(found) == "options":
                return trial.suggest_categorical(name, found.grid())
            if kind(found) == "step":
                return trial.suggest_int(name, *limits(found))
            return trial.suggest_float(name, *limits(found), log=kind(found) == "log")

        while True:
            trial = study.ask()
            answers = {name: suggest(trial, name, found) for name, found in made.land.searched.items()}

            def goes_on(epoch: int, value: float, trial: Any = trial) -> bool:
                trial.report(value, epoch)
                return not trial.should_prune()

            best = train_all(made, number(made, answers), goes_on)
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
        bracket = _Bracket(grace, made.land.epochs, factor, 0)
        count = 0
        while True:
            count += 1
            trial = Trial(count)
            point = made.land.find({name: found.draw(chance.random()) for name, found in made.land.searched.items()})
            train_all(made, point, lambda e, v, t=trial: bracket.on_result(t, e + 1, -v) != "STOP")

    return search


def syne(scheduler: str, **options: Any) -> Search:
    """Syne Tune's asynchronous halving, with random configurations or with a model."""

    def search(made: Replay, seed: int) -> None:
        from syne_tune.backend.trial_status import Trial
        from syne_tune.config_space import choice, loguniform, randint, uniform
        from syne_tune.optimizer import baselines

        logging.disable(logging.WARNING)
        warnings.simplefilter("ignore")
        np.random.seed(seed)
        ranges = {"step": randint, "log": loguniform, "linear": uniform}
        space = {
            name: choice(found.grid()) if kind(found) == "options" else ranges[kind(found)](*limits(found))
            for name, found in made.land.searched.items()
        }
        epochs = made.land.epochs
        asked = getattr(baselines, scheduler)(
            space, metric="value", time_attr="epoch", max_t=epochs, random_seed=seed, **options
        )
        count = 0
        while True:
            config = asked.suggest().config
            trial = Trial(count, config, datetime.datetime.now())
            count += 1
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

            train_all(made, number(made, config), goes_on)

    return search


def neps_search(optimizer: str) -> Search:
    """NePS: a configuration that goes on starts from its checkpoint, so only the epochs that are new are trained."""

    def search(made: Replay, seed: int) -> None:
        import neps
        import torch
        from neps.optimizers import algorithms

        logging.disable(logging.WARNING)
        warnings.simplefilter("ignore")
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        space = neps.SearchSpace(
            {
                name: neps.HPOCategorical(found.grid())
                if kind(found) == "options"
                else neps.HPOInteger(*limits(found))
                if kind(found) == "step"
                else neps.HPOFloat(*limits(found), log=kind(found) == "log")
                for name, found in made.land.searched.items()
            }
            | {"epochs": neps.HPOInteger(1, made.land.epochs, is_fidelity=True)}
        )
        asked = neps.AskAndTell(getattr(algorithms, optimizer)(space))
        while True:
            trial = asked.ask()
            epochs = trial.config["epochs"]
            curve = made.train_until(number(made, trial.config), epochs)[:epochs]
            asked.tell(trial, min(*curve, 1e9))  # not infinite where it diverged

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
    "NePS Hyperband, its default": neps_search("hyperband"),
    "NePS ASHA": neps_search("asha"),
}
