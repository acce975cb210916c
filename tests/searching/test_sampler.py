"""TPE for long studies: Optuna's own choices while there are few trials, and a bounded view of many."""

from collections.abc import Callable

import optuna
import pytest
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import TrialState, create_trial

from harness.searching import sampler
from harness.searching.sampler import History, LongTPE

SPACE = {
    "lr": optuna.distributions.FloatDistribution(1e-3, 1.0, log=True),
    "momentum": optuna.distributions.CategoricalDistribution([0.5, 0.9]),
    "patience": optuna.distributions.IntDistribution(0, 9),
}


def long_tpe(study: optuna.Study, seed: int) -> BaseSampler:
    return LongTPE(History(study, study.get_trials()), seed=seed)


def plain_tpe(study: optuna.Study, seed: int) -> BaseSampler:
    return TPESampler(seed=seed)


def choices(build_sampler: Callable[[optuna.Study, int], BaseSampler], trials: int) -> list[dict[str, object]]:
    """The values of each trial of a study whose sampler is made anew for each, some running at the same time."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    asked = []
    for number in range(trials):
        study.sampler = build_sampler(study, number)
        asked.append(study.ask(SPACE))
        if number % 3 == 2:  # three at once; one of them is pruned
            for place, trial in enumerate(asked[-3:]):
                value = -abs(trial.params["lr"] - 0.1) + trial.params["momentum"]
                if place == 1 and number % 2:
                    study.tell(trial, state=TrialState.PRUNED)
                else:
                    study.tell(trial, value)
    return [trial.params for trial in asked]


@pytest.mark.parametrize("few", [0, 16], ids=["all at once", "one by one"])
def test_short_studies_get_what_optunas_own_sampler_chooses(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "FEW", few)  # however the running trials are read
    assert choices(long_tpe, 60) == choices(plain_tpe, 60)


def test_a_long_study_shows_its_best_its_latest_and_its_running_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "BEST", 5)
    monkeypatch.setattr(sampler, "LATEST", 10)
    study = optuna.create_study(direction="minimize")
    values = [float((number * 37) % 100) for number in range(100)]
    params = {"lr": 0.1, "momentum": 0.9, "patience": 3}
    study.add_trials([create_trial(params=params, distributions=SPACE, value=value) for value in values])
    running = study.ask(SPACE)
    best = sorted(range(90), key=values.__getitem__)[:5]
    history = History(study, study.get_trials())
    assert [trial.number for trial in history.trials()] == [*sorted(best), *range(90, 100), running.number]
    history.add(study.tell(running, 1000.0))
    best = sorted(range(91), key=values.__getitem__)[:5]
    assert [trial.number for trial in history.trials()] == [*sorted(best), *range(91, 101)]


def test_tpe_takes_its_trials_from_the_excerpt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna reads trials through a private method: were it renamed, the bound would be gone without a sound."""
    monkeypatch.setattr(sampler, "BEST", 0)
    monkeypatch.setattr(sampler, "LATEST", 20)
    chosen = []
    for early in (0.002, 0.9):  # trials that are out of sight change nothing
        study = optuna.create_study()
        for number in range(40):
            params = {"lr": early if number < 20 else 0.01 * (number - 19), "momentum": 0.9, "patience": number % 10}
            study.add_trial(create_trial(params=params, distributions=SPACE, value=float(number)))
        study.sampler = long_tpe(study, 1)
        chosen.append(study.ask(SPACE).params)
    assert chosen[0] == chosen[1]
