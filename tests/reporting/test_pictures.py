"""What the pictures of a report are drawn from: the tree of epochs, and what a model gets wrong."""

import dataclasses
import re

import numpy as np
import optuna
import pytest

from harness.reporting.pages.epochs import Branch, build_trees, draw_trees
from harness.reporting.pages.explore import Explored, leaderboard
from harness.reporting.pages.model import Answers
from harness.reporting.pages.search import draw_history, draw_parallel
from harness.reporting.pages.summary import describe_rivals
from harness.reporting.pages.training import describe_drops, describe_gap
from harness.reporting.pages.trust import Trust
from harness.reporting.pages.values import Range, draw_contour, find_edges
from harness.reporting.pages.ways import Way, find_drops, find_overfitting, find_results, find_ways
from harness.tracking.importances import estimate_importances
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
    assert "orange: b." in draw_parallel(trials, ["lr"], "val_accuracy", maximize=True).caption
    assert "orange: d." in draw_parallel(trials, ["lr"], "val_loss", maximize=False).caption
    assert "Trial 1 reached it; 2 trials since then" in draw_history(trials, "val_accuracy", maximize=True).caption


def test_values_of_any_kind_have_a_place_on_the_axes() -> None:
    kinds = (None, "adam", True, (16, 32), 0.5)
    trials = [record(name, value=0.1 * n, kind=kind) for n, (name, kind) in enumerate(zip("abcde", kinds, strict=True))]
    failed = record("f", value=None, kind="sgd")
    drawn = draw_parallel([*trials, failed], ["kind"], "val_accuracy", maximize=True).svg
    assert all(f">{kind}<" in drawn for kind in ("None", "adam", "True", "(16, 32)", "0.5"))
    assert "failed" in draw_history([*trials, failed], "val_accuracy", maximize=True).svg


def way(name: str, *, lr: list[float], accuracy: list[float], train: list[float], validation: list[float]) -> Way:
    best = max(range(len(accuracy)), key=lambda epoch: accuracy[epoch])
    found = dataclasses.replace(record(name, value=accuracy[best]), metrics={"best_epoch": float(best + 1)})
    metrics = {"lr": lr, "val_accuracy": accuracy, "train_loss": train, "val_loss": validation}
    return Way(runs=(found,), metrics=metrics)


def test_runs_that_share_all_epochs_are_one_way_and_ways_equal_up_to_their_best_epoch_are_one_result() -> None:
    a, b, c = record("a", value=0.7), record("b", value=0.7), record("c", value=0.7)
    runs = [dataclasses.replace(run, metrics={"best_epoch": 2.0}) for run in (a, b, c)]
    shared = {"lr": [0.1, 0.1, 0.1], "val_accuracy": [0.5, 0.7, 0.6]}
    parted = {"lr": [0.1, 0.1, 0.01], "val_accuracy": [0.5, 0.7, 0.65]}
    ways = find_ways(runs, {run.run_id: m for run, m in zip(runs, (shared, shared, parted), strict=True)})
    assert [[run.name for run in found.runs] for found in ways] == [["a", "b"], ["c"]]
    assert [len(found) for found in find_results(ways)] == [2]


def test_overfitting_begins_after_the_lowest_validation_loss() -> None:
    rate, accuracy = [0.1] * 6, [0.1, 0.2, 0.3, 0.3, 0.3, 0.3]
    train = [2.0, 1.5, 1.0, 0.8, 0.6, 0.4]
    fits = way("a", lr=rate, accuracy=accuracy, train=train, validation=[2.0, 1.6, 1.2, 1.1, 1.05, 1.0])
    over = way("b", lr=rate, accuracy=accuracy, train=train, validation=[2.0, 1.6, 1.2, 1.3, 1.4, 1.6])
    assert find_overfitting(fits) is None and find_overfitting(over) == 3
    assert describe_gap(over).startswith("b overfits from epoch 4")


def test_what_a_drop_of_the_learning_rate_gained_is_the_best_after_it_against_the_best_before() -> None:
    found = way(
        "a", lr=[0.1, 0.1, 0.01, 0.01, 0.001], accuracy=[0.5, 0.6, 0.7, 0.65, 0.68], train=[1.0] * 5,
        validation=[1.0] * 5,
    )  # fmt: skip
    gains = [
        (drop.epoch, round(drop.gain(maximize=True), 4)) for drop in find_drops(found, "val_accuracy", maximize=True)
    ]
    assert gains == [(2, 0.1), (4, -0.02)]


def test_a_drop_that_gained_one_image_has_gained_no_more_than_chance() -> None:
    found = way("a", lr=[0.1, 0.01], accuracy=[0.969, 0.972], train=[1.0] * 2, validation=[1.0] * 2)
    of_few, of_many, of_a_loss = (
        describe_drops(found, "val_accuracy", maximize=True, images=images) for images in (359, 100_000, None)
    )
    assert "once. It gained no more than chance explains: val_accuracy +0.0030 at epoch 2 (+1 of 359" in of_few
    assert "It helped" in of_many and "It helped: val_accuracy +0.0030 at epoch 2." in of_a_loss


def test_whether_the_best_is_really_better_is_answered_and_runs_that_were_stopped_early_are_counted() -> None:
    def result(value: float, status: str = "FINISHED") -> Way:
        return Way(runs=(dataclasses.replace(record("a", value=value), status=status),), metrics={})

    trust = Trust(images=400, best=0.9)
    assert describe_rivals([result(0.9), result(0.89)], trust).startswith("No: with 400 validation images, none of")
    assert describe_rivals([result(0.9), result(0.7)], trust).startswith("Yes: it is significantly better than the 1")
    some = describe_rivals([result(0.9), result(0.89), result(0.7, "WAITING")], trust)
    assert some.startswith("Not better than all") and "(rank 2). But 1 of them was not trained to the end." in some


def test_equal_values_have_equal_colours_over_two_hyperparameters() -> None:
    runs = [
        record(name, value=value, lr=lr, momentum=momentum)
        for name, value, lr, momentum in zip("abcd", (0.9, 0.9, 0.8, 0.7), (1, 2, 1, 2), (1, 2, 2, 1), strict=True)
    ]
    drawn = draw_contour(runs, ("lr", "momentum"), "val_accuracy", maximize=True)
    colours = [patch.get_facecolor() for patch in drawn.figure.axes[0].patches]
    assert colours[0] == colours[1] and len(set(colours)) == 3


def test_a_range_whose_best_value_lies_at_its_end_is_named() -> None:
    ranked = [
        record(name, value=0.9 - n / 10, lr=lr) for n, (name, lr) in enumerate(zip("abcd", (1, 1, 1, 0.1), strict=True))
    ]
    (edge,) = find_edges([[run] for run in ranked], {"lr": Range(low=0.01, high=1)})
    assert edge.is_upper and "try higher values" in str(edge)
    assert not find_edges([[run] for run in ranked], {"lr": Range(low=0.01, high=10)})
    same = [record("a", value=0.9, lr=1), record("b", value=0.9, lr=0.1)]
    assert not find_edges([same, [ranked[3]]], {"lr": Range(low=0.01, high=1)}), "the best was reached with both"
    tied = [record(name, value=0.9, lr=1 if name in "abc" else 0.1) for name in "abcdefghi"]
    assert "a weak sign" in str(find_edges([[run] for run in tied], {"lr": Range(low=0.01, high=1)})[0]), (
        "six equals have another value"
    )


def test_values_within_the_interval_of_few_images_cannot_be_told_apart() -> None:
    few, many = Trust(images=400, best=0.36), Trust(images=40_000, best=0.36)
    assert few.is_close(0.32) and not few.is_close(0.29) and not many.is_close(0.35)
    interval = few.interval(0.36)
    assert interval is not None and interval.low < 0.32 < 0.40 < interval.high
    assert Trust(images=None, best=0.36).interval(0.36) is None, "a loss has no such interval"


def test_importance_counts_each_result_once_and_leaves_out_what_never_varied() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("constant", 1.0, 1.0)
        trial.suggest_int("patience", 2, 10)
        return (trial.suggest_float("lr", 0.0, 1.0) - 0.3) ** 2

    study.optimize(objective, n_trials=40)
    found = {importance.name: importance for importance in estimate_importances(study, [[n] for n in range(40)])}
    assert list(found) == ["lr", "patience"]
    assert found["patience"].high < found["lr"].low <= found["lr"].value <= found["lr"].high


def test_a_value_that_made_no_difference_is_not_important_whichever_trial_stands_for_a_result() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    results = []
    for number in range(30):
        lr, first = number / 30, 2 + number // 4  # the first trial of a result has a patience that fits its lr
        copies = [first, *(patience for patience in range(2, 10) if patience != first)]
        for patience in copies:
            study.enqueue_trial({"lr": lr, "patience": patience})
        results.append([len(copies) * number + copy for copy in range(len(copies))])
    study.optimize(lambda t: (t.suggest_float("lr", 0, 1) - 0.3) ** 2 + 0 * t.suggest_int("patience", 2, 9), 240)
    found = {importance.name: importance for importance in estimate_importances(study, results)}
    alone = {importance.name: importance for importance in estimate_importances(study, [r[:1] for r in results])}
    assert found["patience"].high < found["lr"].low and alone["patience"].value > 0.3


def test_the_longest_bar_is_the_best_value_also_of_an_error() -> None:
    ways = [[Way(runs=(record(name, value=value),), metrics={})] for name, value in zip("ab", (0.1, 0.4), strict=True)]
    for maximize, first in ((True, "0.060"), (False, "1.000")):
        explored = Explored(
            results=ways, names=[], objective="val_loss", maximize=maximize, trust=Trust(images=None, best=None),
            has_sweeps=False,
        )  # fmt: skip
        assert re.findall(r"--share:([\d.]+)", leaderboard(explored))[0] == first
