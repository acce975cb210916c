"""Trials that wait: budgets in epochs, values and kills; what the study holds of them."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from comparing import assert_same_sweeps, read_store, read_study
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState
from running import COMMAND_SECONDS, environment
from small import slow
from test_kills import run_killed

from harness.search import Integer
from harness.searching.course import Course
from harness.searching.limits import Limits
from harness.searching.space import Space
from harness.searching.tree import TreeSearch
from harness.tracking.journal import open_journal


def trained(said: str) -> int:
    found = re.search(r"epochs: \d+ asked, (\d+) trained", said)
    assert found, said
    return int(found[1])


def test_a_larger_budget_goes_on_with_the_trials_that_wait(harness: Callable[..., Any], spec: Path) -> None:
    first = harness("sweep", spec, "--jobs", 1, "--budget", 14, "--store", "st").out
    assert trained(first) == 14 and "the budget of 14 epochs is spent." in first
    before = read_store(spec.parent / "st")
    waiting = {name for name, run in before.items() if run["outcome"] == "waiting"}
    assert waiting and all(before[name]["status"] == "SCHEDULED" for name in waiting)
    assert re.search(rf"waiting: {len(waiting)} trials?, \d+ epochs from their ends", first)

    second = harness("sweep", spec, "--jobs", 2, "--budget", 60, "--store", "st").out
    assert trained(second) == 60
    after = read_store(spec.parent / "st")
    went_on = [name for name in waiting if after[name] != before[name]]
    assert went_on, "no trial that waited went on"
    for name in went_on:  # the points of before, and more: `read_store` checks that none is there twice
        assert len(after[name]["metrics"]["val_loss"]) > len(before[name]["metrics"]["val_loss"])
        assert after[name]["params"] == before[name]["params"]
    best = re.search(r"^best: (\S+)", second, re.MULTILINE)
    assert best and after[best[1]]["outcome"] == "finished", "the best one was trained to its end"


def test_more_epochs_go_on_with_the_trials_that_wait(harness: Callable[..., Any], spec: Path) -> None:
    harness("sweep", spec, "--jobs", 1, "--budget", 14, "--store", "st")
    before = read_store(spec.parent / "st")
    waiting = {name for name, run in before.items() if run["outcome"] == "waiting"}
    dry = harness("sweep", spec, "--budget", 60, "--epochs", 12, "--store", "st", "--dry-run").out
    assert "Its waiting trials would go on." in dry and read_store(spec.parent / "st") == before

    longer: list[object] = ["sweep", spec, "--jobs", 1, "--epochs", 12, "--store", "st", "--budget"]
    said = harness(*longer, 60).out
    assert "epochs (8 before, 12 now)" in said and "Its waiting trials go on in the new one." in said
    assert trained(said) == 60, "a new study has a budget of its own"
    assert "changed" not in harness(*longer, 75).out
    after = read_store(spec.parent / "st")
    went_on = {name for name in waiting if len(after[name]["metrics"]["val_loss"]) > 8}
    assert went_on, "no trial that waited went on beyond the 8 epochs of the first study"
    for name, run in before.items():
        losses = run["metrics"]["val_loss"]
        assert set(losses) <= set(after[name]["metrics"]["val_loss"])
        assert name in waiting or after[name] == run, "a finished run changed"
    assert len({str(after[name]["params"]) for name in waiting}) == len(waiting)
    listed = harness("runs", spec, "--store", "st").out
    assert all(name in listed for name in waiting), "waiting trials belong to the newest study"
    assert not any(name in listed for name in set(before) - waiting)

    one = next(iter(went_on))
    given = [part for name, value in after[one]["params"].items() for part in ("--set", f"{name}={value}")]
    harness("train", spec, "--epochs", 12, *given, "--store", "alone")
    (alone,) = read_store(spec.parent / "alone").values()
    assert set(after[one]["metrics"]["val_loss"]) <= set(alone["metrics"]["val_loss"]), (
        "it is not the run that trains without a stop"
    )


def test_trials_whose_learning_rates_depend_on_the_number_of_epochs_begin_anew(
    harness: Callable[..., Any], spec: Path
) -> None:
    plateau = "optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience)"
    cosine = "optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs, self.factor * self.patience / 1e3)"
    assert plateau in spec.read_text()
    spec.write_text(spec.read_text().replace(plateau, cosine))
    harness("sweep", spec, "--jobs", 1, "--budget", 14, "--store", "st")
    said = harness("sweep", spec, "--jobs", 1, "--budget", 14, "--epochs", 12, "--store", "st").out
    assert "epochs (8 before, 12 now)" in said and "go on" not in said


@pytest.mark.slow
def test_a_sweep_with_waiting_trials_killed_again_and_again_ends_as_an_uninterrupted_one(
    harness: Callable[..., Any], spec: Path, tmp_path: Path, zygote: Any
) -> None:
    slow(spec, 0.1)
    sweep: list[object] = ["sweep", spec, "--jobs", 1, "--budget", 50, "--store"]
    harness(*sweep, "whole", HARNESS_PACE="0")
    assert run_killed(zygote, tmp_path, [*sweep, "killed"], 8, longest=4.0) == 8
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert_same_sweeps(killed, whole)
    assert {run["outcome"] for run in read_store(whole).values()} == {"finished", "waiting"}


@pytest.mark.slow
def test_a_study_with_more_epochs_that_is_killed_again_and_again_ends_as_an_uninterrupted_one(
    harness: Callable[..., Any], spec: Path, tmp_path: Path, zygote: Any
) -> None:
    slow(spec, 0.1)
    for store in ("whole", "killed"):
        harness("sweep", spec, "--jobs", 1, "--budget", 14, "--store", store, HARNESS_PACE="0")
    sweep: list[object] = ["sweep", spec, "--jobs", 1, "--epochs", 12, "--budget", 40, "--store"]
    harness(*sweep, "whole", HARNESS_PACE="0")
    assert run_killed(zygote, tmp_path, [*sweep, "killed"], 8, longest=4.0) == 8
    assert_same_sweeps(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize("moment", ("archive_study", "carry_trials"))
def test_a_kill_while_trials_are_taken_over_loses_none(
    harness: Callable[..., Any], spec: Path, tmp_path: Path, moment: str
) -> None:
    for store in ("whole", "killed"):
        harness("sweep", spec, "--jobs", 1, "--budget", 10, "--store", store)
    sweep: list[object] = ["sweep", spec, "--jobs", 1, "--epochs", 12, "--budget", 20, "--store"]
    harness(*sweep, "whole")
    dying = f"""
import os
import harness
from harness.searching import session
done = session.{moment}
session.{moment} = lambda *given: (done(*given), os._exit(9))
harness.sweep({str(spec)!r}, jobs=1, epochs=12, budget=20, store="killed")
"""
    command = [sys.executable, "-c", dying]
    died = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, timeout=COMMAND_SECONDS)
    assert died.returncode == 9, died
    harness(*sweep, "killed")
    assert_same_sweeps(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_value_that_is_reached_ends_the_sweep(jobs: int, harness: Callable[..., Any], spec: Path) -> None:
    said = harness("sweep", spec, "--jobs", jobs, "--until", 0.6).out
    assert "val_accuracy 0.6 is reached." in said
    best = re.search(r"^best: \S+  val_accuracy (\S+)", said, re.MULTILINE)
    assert best and float(best[1]) >= 0.6
    assert 1 <= said.count("finished at") <= jobs, "a trial that trained then may turn out better, and ends too"


def test_the_last_part_of_the_time_belongs_to_the_best_trial(
    harness: Callable[..., Any], spec: Path, tmp_path: Path
) -> None:
    limits = Limits(trials=None, ends=time.monotonic() + 1_000)
    assert limits.is_late(reserved=2_000) and not limits.is_late(reserved=500) and not limits.is_late()
    slow(spec, 0.05)
    said = harness("sweep", spec, "--jobs", 1, "--timeout", "8s", "--epochs", 30, "--store", "st").out
    assert "the time is up: no further trial is started." in said and "waiting: " in said
    best = re.search(r"^best: (\S+)", said, re.MULTILINE)
    assert best and read_store(tmp_path / "st")[best[1]]["outcome"] == "finished"


def test_the_last_epochs_go_to_the_best_trial_that_they_bring_to_its_end() -> None:
    course = Course.__new__(Course)
    course._epochs, course._best, course._waits_at = 20, 0.5, {0: 10, 1: 11, 2: 12, 3: 13}
    course._tree = TreeSearch(Space({"width": Integer(low=1, high=4, default=1)}, seed=0), epochs=20, seed=0)
    course._tree.value[:], course._tree.known[:] = [0.3, 0.1, 0.2, 0.6], [9, 6, 10, 19]
    assert course._leader() == (11, 0.1), "the best of all"
    assert course._leader(most=12) == (12, 0.2), "trial 11 needs 14 epochs"
    assert course._leader(most=3) == (11, 0.1), "the only one that could end is worse than a finished one"


def test_points_that_are_known_are_told_to_the_study_and_do_not_count(
    harness: Callable[..., Any], spec: Path, tmp_path: Path
) -> None:
    fixed = ["--set", "momentum=0.9", "--set", "sampler=tpe"]
    said = harness("sweep", spec, "--jobs", 1, "--trials", 50, *fixed, "--store", "st").out
    assert "the search space is exhausted: all 24 configurations are known." in said
    assert re.search(
        r"^trial-\d+  lr \S+  patience \d  factor \S+  known: 0\.\d+, nothing to train", said, re.MULTILINE
    )
    runs = read_store(tmp_path / "st")
    assert len({str(run["params"]) for run in runs.values()}) == len(runs) <= 24, "a copy was trained"
    study = read_study(tmp_path / "st")
    known = [trial for trial in study if f"trial-{trial['number']:04d}" not in runs]
    assert known and all(trial["state"] == "COMPLETE" and trial["value"] is not None for trial in known)
    numbers = {trial["number"] for trial in known}
    assert not {number + 1 for number in numbers} & numbers, "after a copy, the next proposal is another point"


def test_the_study_holds_real_values_on_a_log_axis_and_the_objectives_name(swept: Path) -> None:
    study = optuna.load_study(study_name="small", storage=open_journal(swept / "mlruns" / "optuna.log"))
    assert study.metric_names == ["val_accuracy"]
    for trial in study.trials:
        assert trial.distributions["lr"] == FloatDistribution(1e-3, 1.0, log=True)
        assert trial.params["lr"] in (0.001, 0.01, 0.1, 1.0)


def test_tpe_and_random_choose_steps_of_a_log_scale_and_its_ends_as_often_as_the_rest() -> None:
    from harness.search import LogUniform
    from harness.searching.study import Study

    scale = LogUniform(low=1e-3, high=1.0, count=4, default=0.1)
    for sampler, count in (("random", 200), ("tpe", 12)):
        study = Study(
            optuna.storages.InMemoryStorage(), "s", {"lr": scale}, objective="val_loss", direction="minimize", seed=0,
            sampler=sampler, pruner=None, identity={},
        )  # fmt: skip
        chosen = []
        for _ in range(count):
            asked = study.ask()
            assert asked.trial.params["lr"] == asked.values["lr"]
            chosen.append(asked.values["lr"])
            study.tell(asked.trial, "finished", abs(asked.values["lr"] - 0.01))
        assert set(chosen) <= {0.001, 0.01, 0.1, 1.0}
        if sampler == "random":
            assert all(30 < chosen.count(step) < 70 for step in (0.001, 0.01, 0.1, 1.0)), chosen


def test_a_journal_of_an_earlier_version_is_kept_and_read(
    harness: Callable[..., Any], spec: Path, tmp_path: Path
) -> None:
    storage = open_journal(tmp_path / "st" / "optuna.log")
    old = optuna.create_study(storage=storage, study_name="small", direction="maximize")
    old.set_user_attr("identity", "{}")
    old.set_user_attr("uid", "old")
    steps = {"lr": IntDistribution(0, 3)}  # a step of the scale by its number
    old.add_trial(optuna.trial.create_trial(params={"lr": 2}, distributions=steps, state=TrialState.RUNNING))
    said = harness("sweep", spec, "--jobs", 1, "--trials", 1, "--epochs", 1, "--store", "st").out
    assert "the earlier one and its runs are kept as small~1" in said
    kept = optuna.load_study(study_name="small~1", storage=open_journal(tmp_path / "st" / "optuna.log"))
    assert kept.trials[0].params == {"lr": 2}
