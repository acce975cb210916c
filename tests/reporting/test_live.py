"""The live view: rows of running trials, as many as the terminal has lines for."""

import io
import time

from rich.console import Console

from harness.reporting.live import DRAW_SECONDS, LiveScreen
from harness.training.results import EpochResult


def result(epoch: int) -> EpochResult:
    return EpochResult(
        epoch=epoch, metrics={"train_loss": 0.5, "val_loss": 0.7, "val_accuracy": 0.8}, learning_rate=0.1,
        epoch_seconds=1.0, reused=False, trained_by="run", best_epoch=0, best_value=0.8,
        is_finite=True,
    )  # fmt: skip


def draw(trials: int, height: int) -> list[str]:
    """The lines that are on the terminal with so many trials running and one that has ended."""
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=height)
    screen = LiveScreen(console, ["lr"], trials=trials, train_images=100, maximize=True)
    for number in range(trials + 1):
        screen.started(f"trial-{number:04d}", {"epochs": 5, "lr": 0.1})
        screen.epoch(f"trial-{number:04d}", result(0), 5, changed_from=0.1)
    screen.ended(f"trial-{trials:04d}", "finished", 0.8, None, reused=0)
    time.sleep(DRAW_SECONDS)
    file = console.file = io.StringIO()
    screen.refresh()
    drawn = [line for line in file.getvalue().splitlines() if line]
    screen.close()
    return drawn


def test_every_running_trial_has_a_row_where_there_are_lines_for_it() -> None:
    lines = draw(trials=5, height=20)
    assert [line[:10] for line in lines if line.startswith("trial-")] == [f"trial-{n:04d}" for n in range(5)]
    assert not any("more" in line for line in lines)
    assert "1 of 5 trials" in lines[-1]


def test_a_thousand_running_trials_take_no_more_lines_than_the_terminal_has() -> None:
    lines = draw(trials=1000, height=20)
    assert len(lines) < 20
    assert any("and 984 more" in line for line in lines)
