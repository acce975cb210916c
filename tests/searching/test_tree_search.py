"""The search over the tree: what it knows, what it chooses next."""

from typing import Any

import numpy as np
import pytest
from scipy.linalg import solve_triangular
from threadpoolctl import threadpool_info, threadpool_limits

from harness.search import Choice, Hyperparameter, Integer, LogUniform, Uniform
from harness.searching import promise
from harness.searching.space import DRAWN, Space
from harness.searching.stagnation import Stagnation
from harness.searching.tree import Move, TreeSearch

EPOCHS = 20
SEARCHED: dict[str, Hyperparameter] = {
    "lr": LogUniform(low=1e-3, high=1.0, count=7, default=1e-2),
    "momentum": Choice(options=(0.5, 0.9), default=0.9),
    "patience": Integer(low=1, high=6, default=2),
}


def curve(values: dict[str, float]) -> list[float]:
    """A loss that falls towards an end that depends on the values; patience matters from epoch 8 on."""
    end = abs(np.log10(values["lr"]) + 1) + (values["momentum"] == 0.5) * 0.3
    late = 0.05 * abs(values["patience"] - 4)
    return [end + 2 / (epoch + 1) + (late if epoch >= 8 else 0) for epoch in range(EPOCHS)]


def siblings(values: dict[str, float]) -> list[tuple[dict[str, float], int]]:
    return [({"patience": patience}, EPOCHS if patience == values["patience"] else 8) for patience in range(1, 7)]


def search(*, seed: int, moves: int) -> tuple[TreeSearch, list[Move], int]:
    """A search of so many moves over the made-up curves, and the epochs that it trained."""
    tree = TreeSearch(Space(SEARCHED, seed=seed), epochs=EPOCHS, seed=seed)
    made, trained = [], 0
    for _ in range(moves):
        move = tree.choose({}, to_end=False)
        if move is None:
            break
        values = tree.space.points[move.point]
        trained += move.until - int(tree.known[move.point])
        tree.note(values, curve(values)[: move.until], siblings(values))
        made.append(move)
    return tree, made, trained


def best_of(tree: TreeSearch) -> float:
    return min(curve(values)[-1] for values in tree.space.points)


def test_the_best_configuration_is_trained_to_its_end_within_a_tenth_of_all_epochs() -> None:
    for seed in range(3):
        tree, moves, trained = search(seed=seed, moves=60)
        ends = [curve(tree.space.points[move.point])[-1] for move in moves if move.until == EPOCHS]
        assert min(ends) == best_of(tree)
        assert trained < len(tree.space) * EPOCHS / 10


def test_epochs_that_siblings_share_are_known() -> None:
    tree = TreeSearch(Space(SEARCHED, seed=0), epochs=EPOCHS, seed=0)
    values = {"lr": 0.1, "momentum": 0.9, "patience": 2}
    tree.note(values, curve(values)[:12], siblings(values))
    known = {
        point["patience"]: int(tree.known[i])
        for i, point in enumerate(tree.space.points)
        if (point["lr"], point["momentum"]) == (0.1, 0.9)
    }
    assert known == {1: 8, 2: 12, 3: 8, 4: 8, 5: 8, 6: 8}
    assert tree.known.sum() == 12 + 5 * 8 and not tree.is_known(values)


def test_no_point_is_chosen_once_all_of_it_is_known_and_the_search_ends() -> None:
    tree, moves, trained = search(seed=1, moves=10_000)
    assert tree.is_exhausted and tree.choose({}, to_end=False) is None
    assert trained == 14 * 8 + 84 * 12, "each epoch once"
    assert len({(move.point, move.until) for move in moves}) == len(moves)


def test_the_same_history_leads_to_the_same_choice() -> None:
    assert search(seed=2, moves=25)[1] == search(seed=2, moves=25)[1]


def test_a_point_that_trains_is_not_chosen_again_and_draws_others_away() -> None:
    tree, _, _ = search(seed=0, moves=12)
    first = tree.choose({}, to_end=False)
    assert first is not None
    second = tree.choose({first.point: first.until}, to_end=False)
    assert second is not None and second.point != first.point


def test_a_diverged_point_and_its_siblings_are_over() -> None:
    tree = TreeSearch(Space(SEARCHED, seed=0), epochs=EPOCHS, seed=0)
    values = {"lr": 1.0, "momentum": 0.9, "patience": 2}
    tree.note(values, [2.0, float("nan")], siblings(values), is_over=True)
    assert tree.is_over.sum() == 6 and tree.is_known({**values, "patience": 5})


def test_a_continuous_space_is_searched_over_points_drawn_from_the_seed() -> None:
    searched = {**SEARCHED, "dropout": Uniform(low=0.0, high=0.5, default=0.1)}
    space, again = Space(searched, seed=3), Space(searched, seed=3)
    assert len(space) == DRAWN and not space.is_whole and space.points == again.points
    assert space.places.min() >= 0 and space.places.max() <= 1
    assert Space(searched, seed=4).points != space.points


def test_a_curve_that_has_not_improved_for_long_has_a_smaller_chance_to_improve() -> None:
    stagnation = Stagnation([1, 2, 4, 8, 16])
    falling, flat = np.linspace(1, 0, 16), np.array([0.5] * 16)
    for _ in range(5):
        stagnation.note(falling, 0)
        stagnation.note(flat, 0)
    assert stagnation.age(falling, 8) == 0 and stagnation.age(flat, 8) == 3
    ages, known = np.array([0, 3, 0, 3, 0]), np.array([8, 8, 0, 15, 16])
    chances = stagnation.chances(ages, known)
    improved, stayed = (20 + 1) / (25 + 2), (0 + 1) / (5 + 2)  # curves of age 0, and of age 3
    assert np.allclose(chances, [improved, stayed, 1, stayed, 0]), "one stage is left, none for the last"


def test_a_choice_takes_one_thread_from_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []

    def solve(*given: Any, **more: Any) -> Any:
        used.extend(info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas")
        return solve_triangular(*given, **more)

    monkeypatch.setattr(promise, "solve_triangular", solve)
    with threadpool_limits(2, user_api="blas"):
        model = promise.Promise(np.linspace(0, 1, 6).reshape(-1, 1), epochs=10)
        for point in range(3):
            model.add(point, 1, float(point))
        model.improvements(np.arange(6), [(4, 2)])
        assert used and set(used) == {1}
        assert {info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"} == {2}


def test_of_two_that_promise_the_same_the_one_nearer_its_end_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    tree, _, _ = search(seed=0, moves=12)
    monkeypatch.setattr(tree._promise, "improvements", lambda points, *_, **__: np.zeros(len(points)))
    monkeypatch.setattr(tree._stagnation, "chances", lambda ages, known: np.ones(len(known)))
    move = tree.choose({}, to_end=False)
    still_open = (tree.known < EPOCHS) & ~tree.is_over
    assert move is not None and tree.known[move.point] == tree.known[still_open].max() > 0


def test_a_lucky_value_does_not_send_the_search_to_where_it_knows_nothing() -> None:
    places = np.linspace(0, 1, 21).reshape(-1, 1)
    model = promise.Promise(places, epochs=10)
    for point in range(11):
        model.add(point, 10, -9.0 if point == 5 else float(abs(point - 4)))  # the best value is one of luck
    still_open = np.arange(11, 21)
    over_best = model.improvements(still_open)
    over_expected = model.improvements(still_open, over_expected=True)
    gains = np.exp(over_expected) - np.exp(over_best)
    assert (gains > 0).all() and gains.argmax() == model._predict(model._scores())[0][still_open].argmin()


@pytest.mark.parametrize("shares", [False, True])
def test_a_search_knows_whether_points_share_epochs(shares: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = TreeSearch(Space(SEARCHED, seed=0), epochs=EPOCHS, seed=0)
    asked: list[bool] = []
    for _ in range(4):
        move = tree.choose({}, to_end=False)
        assert move is not None
        values = tree.space.points[move.point]
        tree.note(values, curve(values)[: move.until], siblings(values) if shares else [(values, move.until)])
    improvements = tree._promise.improvements
    monkeypatch.setattr(
        tree._promise,
        "improvements",
        lambda *given, over_expected: (asked.append(over_expected), improvements(*given))[1],
    )
    tree.choose({}, to_end=False)
    assert asked == [not shares], "over the best value where points share epochs, over the expected one elsewhere"


def test_it_learns_which_ranges_matter_where_they_are_continuous() -> None:
    ranges: dict[str, Hyperparameter] = {
        "lr": LogUniform(low=1e-3, high=1.0, default=1e-2),
        "momentum": Uniform(low=0.8, high=0.99, default=0.9),
    }
    places = np.random.default_rng(0).random((60, 2))
    model = promise.Promise(places, epochs=10, is_fitted=True)
    for point in range(32):
        model.add(point, 1, float(abs(places[point, 0] - 0.4)))  # the second coordinate changes nothing
    matters, does_not = model._lengths
    assert matters < does_not == promise.LONGEST
    assert TreeSearch(Space(ranges, seed=0), epochs=10, seed=0)._promise._is_fitted
    assert not TreeSearch(Space(SEARCHED, seed=0), epochs=10, seed=0)._promise._is_fitted, "siblings share epochs there"
