"""Hyperparameters: what a declaration promises, what it refuses, and what `--set` means."""

import itertools
import math
from typing import Any

import optuna
import pytest

from harness import search
from harness.errors import HarnessError
from harness.search import Hyperparameter, parse_hyperparameter

KINDS: dict[str, Any] = {
    "uniform": search.uniform(0.0, 0.5, default=0.1),
    "uniform, stepped": search.uniform(0.0, 0.5, default=0.1, step=0.1),
    "log": search.log_uniform(1e-4, 1e-1, default=1e-3),
    "log, stepped": search.log_uniform(1e-3, 1e-1, default=1e-2, points=5),
    "integer": search.integer(2, 10, default=7),
    "integer, stepped": search.integer(16, 100, default=32, step=16),
    "numbers": search.choice(0.8, 0.9, 0.99, default=0.9),
    "strings": search.choice("relu", "gelu", default="relu"),
    "booleans": search.choice(True, False, default=True),
    "tuples and None": search.choice(None, (64,), (64, 64), default=None),
}


def suggest(hyperparameter: Hyperparameter, count: int = 60) -> list[Any]:
    """What real Optuna trials get."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [hyperparameter.suggest(study.ask(), "x") for _ in range(count)]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trial_gets_values_that_the_declaration_offers(kind: str) -> None:
    found = KINDS[kind]
    found.check()
    values = suggest(found)
    assert len(set(values)) > 1
    offered = found.points(1000)
    if kind in ("uniform", "log"):
        assert all(found.low <= value <= found.high for value in values)
    else:
        assert set(values) == set(offered), "each of them, and no other"
        assert all(type(value) is type(offered[offered.index(value)]) for value in values)


@pytest.mark.parametrize("kind", KINDS)
def test_points_span_the_range_in_order(kind: str) -> None:
    found = KINDS[kind]
    everything = found.points(1000)
    for most in (1, 2, 3, 7):
        some = found.points(most)
        assert 1 <= len(some) <= most
        assert all(value in everything or kind in ("uniform", "log") for value in some)
        if most > 1:
            assert (some[0], some[-1]) == (everything[0], everything[-1])
        if not kind.startswith(("strings", "booleans", "tuples")):
            assert some == sorted(some)
    if everything[:1] != [None] and hasattr(found, "low"):
        assert everything[0] == found.low
        assert everything[-1] <= found.high


@pytest.mark.parametrize("kind", KINDS)
def test_every_offered_value_can_be_set_by_the_text_that_a_table_shows(kind: str) -> None:
    found = KINDS[kind]
    for value in found.points(20):
        assert found.parse(str(value)) == value
        assert type(found.parse(str(value))) is type(value)


def test_a_stepped_log_scale_has_the_real_values() -> None:
    grid = search.log_uniform(1e-3, 1e-1, points=9, default=1e-2).points(9)  # type: ignore[attr-defined]
    assert (grid[0], grid[4], grid[8]) == (0.001, 0.01, 0.1)
    ratios = [right / left for left, right in itertools.pairwise(grid)]
    assert all(math.isclose(ratio, 10**0.25, rel_tol=1e-4) for ratio in ratios)


def test_a_stepped_scale_has_no_noise_of_binary_fractions() -> None:
    found: Any = search.uniform(0.1, 0.4, step=0.1, default=0.1)
    found.check()
    assert found.points(9) == [0.1, 0.2, 0.3, 0.4]
    assert set(suggest(found)) == {0.1, 0.2, 0.3, 0.4}


def test_a_step_may_be_the_whole_range() -> None:
    found: Any = search.uniform(0.2, 0.3, step=0.1, default=0.2)
    found.check()
    assert found.points(9) == [0.2, 0.3]


def test_a_step_that_does_not_end_at_high_ends_below_it() -> None:
    assert search.integer(1, 10, step=4, default=1).points(9) == [1, 5, 9]  # type: ignore[attr-defined]
    assert search.uniform(0.0, 1.0, step=0.4, default=0.0).points(9) == [0.0, 0.4, 0.8]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("found", "message"), [
    (search.uniform(0.5, 0.1, default=0.2), "low 0.5 is above high 0.1"),
    (search.uniform(0.0, 0.5, default=0.6), "default 0.6 is outside 0.0 to 0.5"),
    (search.uniform(0.0, math.inf, default=0.6), "high inf is not a finite number"),
    (search.uniform(0.0, "1", default=0.6), "high '1' is not a finite number"),
    (search.uniform(0.0, 0.5, default=0.1, step=0.6), "step 0.6 does not fit between 0.0 and 0.5"),
    (search.uniform(0.0, 0.5, default=0.1, step=-0.1), "step -0.1 does not fit"),
    (search.uniform(0.0, 0.5, default=0.1, step="a"), "step 'a' does not fit"),
    (search.log_uniform(1e-1, 1e-3, default=1e-2), "low 0.1 is above high 0.001"),
    (search.log_uniform(0.0, 1.0, default=0.1), "low 0.0 must be above 0 on a log scale"),
    (search.log_uniform("a", 1.0, default=0.1), "low 'a' is not a finite number"),
    (search.log_uniform(1e-3, 1e-1, default=1.0), "default 1.0 is outside 0.001 to 0.1"),
    (search.log_uniform(1e-3, 1e-1, default=1e-2, points=1), "points=1 must be a whole number of at least 2"),
    (search.log_uniform(1e-3, 1e-1, default=1e-2, points=2.5), "points=2.5 must be a whole number of at least 2"),
    (search.integer(10, 2, default=7), "low 10 is above high 2"),
    (search.integer(2, 10, default=11), "default 11 is outside 2 to 10"),
    (search.integer(2, 10, default=2.5), "default 2.5 is not an integer"),
    (search.integer(2, 10, default=3, step=0), "step 0 must be at least 1"),
    (search.choice(0.1, 0.2, default=0.3), "default 0.3 is not one of 0.1, 0.2"),
    (search.choice(default=0.3), "needs at least one option"),
    (search.choice(print, default=print), "neither number, string, boolean, None nor a tuple"),
])  # fmt: skip
def test_a_declaration_that_contradicts_itself_says_how(found: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        found.check()


@pytest.mark.parametrize(("kind", "text", "value"), [
    ("uniform", "0.25", 0.25),
    ("uniform", "2", 2.0),  # outside: a search never goes there, a person may
    ("log", "1e-3", 0.001),
    ("integer", "12", 12),
    ("numbers", "0.95", 0.95),
    ("numbers", "1", 1.0),
    ("strings", "gelu", "gelu"),
    ("booleans", "False", False),
    ("tuples and None", "(64,64)", (64, 64)),
    ("tuples and None", "None", None),
])  # fmt: skip
def test_set_means_a_value_of_the_declared_type(kind: str, text: str, value: Any) -> None:
    parsed = parse_hyperparameter("x", KINDS[kind], text)
    assert (parsed, type(parsed)) == (value, type(value))


@pytest.mark.parametrize(("kind", "text", "message"), [
    ("uniform", "a lot", "--set x=a lot: 'a lot' is not a number"),
    ("log", "nan", "'nan' is not a finite number"),
    ("integer", "1.5", "'1.5' is not an integer"),
    ("numbers", "high", "--set x=high: 'high' is not a number"),
    ("numbers", "1e999", "is not a finite number"),
    ("numbers", "True", "'True' is not a number"),
    ("strings", "gelo", "'gelo' is not one of relu, gelu. Did you mean 'gelu'?"),
    ("booleans", "true", "Did you mean 'True'?"),
    ("tuples and None", "{[]: 1}", "is not one of None"),
])  # fmt: skip
def test_set_refuses_what_the_type_does_not_hold(kind: str, text: str, message: str) -> None:
    with pytest.raises(HarnessError) as caught:
        parse_hyperparameter("x", KINDS[kind], text)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_whole_options_take_other_whole_numbers_and_no_fractions() -> None:
    found: Any = search.choice(16, 32, default=16)
    assert found.parse("24") == 24
    with pytest.raises(ValueError, match=r"'0.5' is not one of 16, 32"):
        found.parse("0.5")


def test_a_whole_default_among_fractions_rounds_nothing() -> None:
    found: Any = search.choice(0, 0.1, 0.5, default=0)
    assert found.parse("0.3") == 0.3
