"""What the pictures of a report are drawn from: the tree of epochs, and what a model gets wrong."""

import numpy as np
import pytest

from harness.reporting.pages.epochs import Branch, build_trees, draw_trees
from harness.reporting.pages.model import Answers
from harness.reporting.pages.search import draw_history, draw_parallel
from harness.tracking.runs import RunRecord


def record(name: str, *, recipe: str = "r", value: float | None = 0.5, **params: object) -> RunRecord:
    return RunRecord(
        run_id=name * 8, name=name, status="FINISHED" if value is not None else "FAILED", value=value, params=params,
        metrics={}, objective="val_accuracy", recipe=recipe, reason=None,
    )  # fmt: skip


def names(branch: Branch) -> list[str]:
    return [run.name for run in branch.runs]


def test_runs_are_one_branch_until_their_learning_rates_part() -> None:
    a, b, c, other = record("a"), record("b"), record("c"), record("d", recipe="s")
    trees = build_trees(
        [(a, [0.1, 0.1, 0.1, 0.01]), (b, [0.1, 0.1, 0.05, 0.05]), (c, [0.1, 0.1, 0.1, 0.01]), (other, [0.1] * 4)]
    )
    shared, alone = trees.roots
    assert names(shared) == ["a", "b", "c"] and shared.rates == [0.1, 0.1] and names(alone) == ["d"]
    kept, dropped = shared.children
    assert names(kept) == ["a", "c"] and (kept.start, kept.stop, kept.changes) == (2, 4, 0)
    assert names(dropped) == ["b"] and dropped.changes == 1
    assert trees.asked == 16 and trees.different == 2 + 2 + 2 + 4


def test_a_run_that_ended_early_ends_on_the_branch_of_the_others() -> None:
    pruned, whole = record("a"), record("b")
    trees = build_trees([(pruned, [0.1, 0.1]), (whole, [0.1, 0.1, 0.1])])
    (root,) = trees.roots
    assert names(root) == ["a", "b"] and [names(child) for child in root.children] == [["b"]]
    assert trees.different == 3
    assert "5 epochs in all runs, of which 3 differ: 2 did not" in draw_trees(trees, {}).caption


def test_a_schedule_that_turns_every_epoch_is_drawn_too() -> None:
    runs = [(record(name), [0.1 / (epoch + 1 + number) for epoch in range(200)]) for number, name in enumerate("ab")]
    assert draw_trees(build_trees(runs), {}).svg.startswith("<svg")


@pytest.fixture
def answers() -> Answers:
    """Of ten cats and ten dogs, three cats are taken for dogs."""
    targets = np.array([0] * 10 + [1] * 10)
    likely = np.array([0.9] * 7 + [0.2, 0.1, 0.3] + [0.25] * 10)
    return Answers(probabilities=np.stack([likely, 1 - likely], 1), targets=targets, classes=("cat", "dog"))


def test_the_confusion_of_a_model_is_counted(answers: Answers) -> None:
    assert answers.confusion.tolist() == [[7, 3], [0, 10]]
    assert answers.mixed_up() == [("cat", "dog", 3, 10)]
    assert answers.most_wrong() == [8, 7, 9]  # the cat that it was surest to be a dog first


def test_calibration_compares_confidence_with_what_is_right(answers: Answers) -> None:
    rows, error = answers.calibration()
    assert sum(count for _, _, count in rows) == 20
    by_confidence = {round(sure, 2): (true, count) for sure, true, count in rows}
    assert by_confidence[0.7] == (0.0, 1) and by_confidence[0.75][1] == 10
    by_hand = (8 * abs(0.9 - 7 / 8) + 10 * abs(0.75 - 1) + 1 * 0.8 + 1 * 0.7) / 20
    assert error == pytest.approx(by_hand)


def test_the_best_trial_is_the_first_of_equal_ones_in_either_direction() -> None:
    trials = [
        record(name, value=value, lr=0.1 + value) for name, value in zip("abcd", (0.2, 0.9, 0.9, 0.1), strict=True)
    ]
    assert "the best, b, is" in draw_parallel(trials, ["lr"], "val_accuracy", maximize=True).caption
    assert "the best, d, is" in draw_parallel(trials, ["lr"], "val_loss", maximize=False).caption
    assert "reached by trial 1, 2 trials ago" in draw_history(trials, "val_accuracy", maximize=True).caption


def test_values_of_any_kind_have_a_place_on_the_axes() -> None:
    kinds = (None, "adam", True, (16, 32), 0.5)
    trials = [record(name, value=0.1 * n, kind=kind) for n, (name, kind) in enumerate(zip("abcde", kinds, strict=True))]
    failed = record("f", value=None, kind="sgd")
    drawn = draw_parallel([*trials, failed], ["kind"], "val_accuracy", maximize=True).svg
    assert all(f">{kind}<" in drawn for kind in ("None", "adam", "True", "(16, 32)", "0.5"))
    assert "failed" in draw_history([*trials, failed], "val_accuracy", maximize=True).svg
