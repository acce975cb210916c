"""SIGKILL at any moment: in the end the store is what it would have been."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comparing import assert_same_checkpoints, assert_same_sweeps, read_store
from small import slow

KILLS = 20


def run_killed(zygote: Any, folder: Path, arguments: list[object], kills: int, longest: float) -> int:
    """Runs a command to its end through so many SIGKILLs at random moments; how many met it at work.

    It is slow until the last one, so that it has not ended before.
    """
    chosen = random.Random(7)
    met = 0
    for _ in range(kills):
        started = zygote.start(*arguments, cwd=folder, HARNESS_PACE="4")
        time.sleep(chosen.uniform(0, longest))
        met += started.kill().code == -9
    done = zygote.start(*arguments, cwd=folder, HARNESS_PACE="0").wait()
    assert done.code == 0, done
    return met


@pytest.mark.slow
def test_a_sweep_killed_twenty_times_ends_as_an_uninterrupted_one(
    harness: Callable[..., Any], spec: Path, tmp_path: Path, zygote: Any
) -> None:
    slow(spec, 0.1)
    sweep: list[object] = ["sweep", spec, "--jobs", 1, "--trials", 14, "--store"]
    harness(*sweep, "whole", HARNESS_PACE="0")
    met = run_killed(zygote, tmp_path, [*sweep, "killed"], KILLS, longest=3.0)
    assert met == KILLS

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert_same_sweeps(killed, whole)
    assert {run["status"] for run in read_store(killed).values()} == {"FINISHED"}
    assert not list(killed.rglob("*.tmp")), "a kill left half a file for good"


@pytest.mark.slow
def test_a_training_run_killed_again_and_again_ends_as_an_uninterrupted_one(
    harness: Callable[..., Any], spec: Path, tmp_path: Path, zygote: Any
) -> None:
    slow(spec, 0.1)
    train: list[object] = ["train", spec, "--epochs", 40, "--store"]
    harness(*train, "whole", HARNESS_PACE="0")
    met = run_killed(zygote, tmp_path, [*train, "killed"], 8, longest=2.5)
    assert met == 8

    assert read_store(tmp_path / "killed") == read_store(tmp_path / "whole")
    assert_same_checkpoints(tmp_path / "killed", tmp_path / "whole")
    assert list(read_store(tmp_path / "killed")) == ["train-0001"]
