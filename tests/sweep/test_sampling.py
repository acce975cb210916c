"""TPE for long studies: Optuna's own choices while there are few trials, and a bounded view of many."""

import optuna
import pytest
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import TrialState, create_trial

from harness.sweep import sampling
from harness.sweep.sampling import LongTPE

SPACE = {
    "lr": optuna.distributions.FloatDistribution(1e-3, 1.0, log=True),
    "momentum": optuna.distributions.CategoricalDistribution([0.5, 0.9]),
    "patience": optuna.distributions.IntDistribution(0, 9),
}


def choices(kind: type[BaseSampler], trials: int) -> list[dict[str, object]]:
    """The values of each trial of a study whose sampler is made anew for each, some running at the same time."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    asked = []
    for number in range(trials):
        study.sampler = kind(seed=number)  # type: ignore[call-arg]
        asked.append(study.ask(SPACE))
        if number % 3 == 2:  # three at once; one of them is pruned
            for place, trial in enumerate(asked[-3:]):
                value = -abs(trial.params["lr"] - 0.1) + trial.params["momentum"]
                if place == 1 and number % 2:
                    study.tell(trial, state=TrialState.PRUNED)
                else:
                    study.tell(trial, value)
    return [trial.params for trial in asked]


def test_short_studies_get_what_optunas_own_sampler_chooses() -> None:
    assert choices(LongTPE, 60) == choices(TPESampler, 60)


def test_a_long_study_shows_its_best_its_latest_and_its_running_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "BEST", 5)
    monkeypatch.setattr(sampling, "LATEST", 10)
    study = optuna.create_study(direction="minimize")
    values = [float((number * 37) % 100) for number in range(100)]
    params = {"lr": 0.1, "momentum": 0.9, "patience": 3}
    study.add_trials([create_trial(params=params, distributions=SPACE, value=value) for value in values])
    running = study.ask(SPACE)
    looked_at: list[set[int]] = []

    class Spying(TPESampler):
        def sample_relative(self, study, trial, search_space):  # type: ignore[no-untyped-def]
            looked_at.append({found.number for found in study.get_trials(deepcopy=False)})
            return super().sample_relative(study, trial, search_space)

    monkeypatch.setattr(sampling, "TPESampler", Spying)
    study.sampler = LongTPE(seed=0)
    asked = study.ask(SPACE)
    best = sorted(range(100), key=values.__getitem__)[:5]
    assert looked_at == [{*best, *range(90, 100), running.number, asked.number}]


def test_tpe_takes_its_trials_from_the_excerpt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna reads trials through a private method: were it renamed, the bound would be gone without a sound."""
    monkeypatch.setattr(sampling, "BEST", 0)
    monkeypatch.setattr(sampling, "LATEST", 20)
    chosen = []
    for early in (0.002, 0.9):  # trials that are out of sight change nothing
        study = optuna.create_study()
        for number in range(40):
            params = {"lr": early if number < 20 else 0.01 * (number - 19), "momentum": 0.9, "patience": number % 10}
            study.add_trial(create_trial(params=params, distributions=SPACE, value=float(number)))
        study.sampler = LongTPE(seed=1)
        chosen.append(study.ask(SPACE).params)
    assert chosen[0] == chosen[1]
