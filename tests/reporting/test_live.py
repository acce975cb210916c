"""The live view: rows of running trials, as many as the terminal has lines for."""

import io
import re
import time

from rich.console import Console

from harness.reporting.live import DRAW_SECONDS, LiveScreen
from harness.training.results import EpochResult


def result(epoch: int) -> EpochResult:
    return EpochResult(
        epoch=epoch, metrics={"train_loss": 0.5, "val_loss": 0.7, "val_accuracy": 0.8}, learning_rates={"lr": 0.1},
        epoch_seconds=1.0, reused=False, trained_by="run", best_epoch=0, best_value=0.8,
        is_finite=True,
    )  # fmt: skip


def draw(trials: int, height: int, width: int = 80, **values: object) -> list[str]:
    """The lines that are on the terminal with so many trials running and one that has ended."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=height)
    screen = LiveScreen(console, ["lr", *values], trials=trials, train_images=100, maximize=True)
    for number in range(trials + 1):
        screen.started(f"trial-{number:04d}", {"epochs": 5, "lr": 0.1, **values})
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


def test_a_row_shows_the_hyperparameters_and_the_time_left_also_on_a_narrow_terminal() -> None:
    for width in (60, 80, 130):
        heading, row, *_ = draw(trials=1, height=20, width=width, momentum=0.9, patience=7)
        assert "left" in heading and "values" in heading and " 4 s" in row
        assert "momentum 0.9" in row and ("patience 7" in row or width < 130)


def test_a_trial_shows_its_learning_rate_before_its_first_epoch() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=20)
    screen = LiveScreen(console, ["lr"], trials=1, train_images=100, maximize=True)
    screen.started("trial-0000", {"epochs": 5, "lr": 0.0316228})
    screen.refresh()
    assert re.search(r"trial-0000 +-/5 +0\.0316 ", console.file.getvalue())  # type: ignore[attr-defined]
    screen.close()


def test_the_last_line_leaves_room_for_the_echo_of_ctrl_c() -> None:
    lines = draw(trials=3, height=20, width=48)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", lines[-1])
    assert "1 of 3 trials" in plain and len(plain) <= 45, "else it would begin another line, and the heading stays"


def test_what_was_stopped_says_the_best_so_far() -> None:
    for trials in (3, 0):  # 0: as many as it takes
        check_that_a_stop_says_the_best(trials)


def check_that_a_stop_says_the_best(trials: int) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=20)
    screen = LiveScreen(console, ["lr"], trials=trials, train_images=100, maximize=True)
    screen.started("trial-0000", {"epochs": 5, "lr": 0.1})
    screen.epoch("trial-0000", result(0), 5, changed_from=0.1)
    screen.close()
    screen.close()
    assert console.file.getvalue().count("best so far, in this command") == 1  # type: ignore[attr-defined]
