"""Intervals and tests, against scipy's, against counting by hand, and against simulated truth."""

import doctest
import math

import numpy as np
import pytest
from scipy import stats

from harness.results import statistics
from harness.results.statistics import mcnemar, paired_bootstrap, standard_deviation, t_interval


def right_or_wrong(count: int, first: float, second: float, seed: int) -> np.ndarray:
    """Differences of two models that are right with these probabilities on images of different difficulty."""
    generator = np.random.default_rng(seed)
    luck = generator.random(count) * 0.7 + generator.random(count) * 0.3  # shared, as images are
    return (luck < first).astype(float) - (luck * 0.8 + generator.random(count) * 0.2 < second).astype(float)


def test_the_examples_in_the_docstrings_run() -> None:
    assert doctest.testmod(statistics).failed == 0


@pytest.mark.parametrize("kind", ["right or wrong", "skewed", "nearly normal"])
def test_the_bootstrap_agrees_with_scipys(kind: str) -> None:
    generator = np.random.default_rng(3)
    differences = {
        "right or wrong": right_or_wrong(200, 0.7, 0.6, 3),
        "skewed": generator.exponential(size=80) ** 2,
        "nearly normal": generator.normal(0.1, 1, size=150),
    }[kind]
    ours = paired_bootstrap(differences, resamples=40_000)
    theirs = stats.bootstrap(
        (differences,), np.mean, n_resamples=40_000, method="BCa", rng=np.random.default_rng(1)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.value == pytest.approx(differences.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * width)


def test_the_bootstrap_of_four_pairs_is_what_counting_all_resamples_gives() -> None:
    values = np.array([-1.0, 0.5, 1.0, 4.0])
    every = np.stack(np.meshgrid(*[values] * 4)).reshape(4, -1).mean(0)  # all 256 resamples
    drawn = statistics._resampled_means(values, 100_000, np.random.default_rng(0))
    for quantile in (0.025, 0.25, 0.5, 0.9):
        assert np.quantile(drawn, quantile) == pytest.approx(np.quantile(every, quantile), abs=0.13)
    assert drawn.mean() == pytest.approx(every.mean(), abs=0.02) and drawn.std() == pytest.approx(every.std(), abs=0.02)


def test_counts_and_single_draws_give_one_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = right_or_wrong(300, 0.7, 0.6, 5)
    by_counts = paired_bootstrap(differences)
    monkeypatch.setattr(statistics, "FEW_VALUES", 0)
    monkeypatch.setattr(statistics, "MOST_DRAWS", 70_000)  # several blocks, the last one smaller
    one_by_one = paired_bootstrap(differences)
    assert by_counts.low == pytest.approx(one_by_one.low, abs=0.007)
    assert by_counts.high == pytest.approx(one_by_one.high, abs=0.007)


@pytest.mark.parametrize(("count", "first", "second"), [(200, 0.75, 0.7), (500, 0.9, 0.9), (100, 0.6, 0.5)])
def test_a_95_percent_interval_holds_the_truth_95_times_in_100(count: int, first: float, second: float) -> None:
    truth = right_or_wrong(2_000_000, first, second, 99).mean()
    held = 0
    for seed in range(400):
        found = paired_bootstrap(right_or_wrong(count, first, second, seed), resamples=2_000, seed=seed)
        held += found.low <= truth <= found.high
    assert 0.92 <= held / 400 <= 0.98  # 0.95, give or take three standard errors


def test_the_interval_is_the_same_each_time_and_wider_for_a_higher_level() -> None:
    differences = right_or_wrong(200, 0.7, 0.6, 0)
    assert paired_bootstrap(differences) == paired_bootstrap(differences)
    narrow, wide = paired_bootstrap(differences, level=0.9), paired_bootstrap(differences, level=0.99)
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_equal_differences_have_an_interval_without_width() -> None:
    for value in (0.0, 0.1, -3.0):
        found = paired_bootstrap([value] * 50)
        assert found.low == found.high == found.value == pytest.approx(value)
    assert not paired_bootstrap([0.0] * 50).excludes_zero
    with pytest.raises(ValueError, match="at least 1"):
        paired_bootstrap([])


def test_mcnemar_is_what_counting_coin_tosses_gives() -> None:
    for first in range(8):
        for second in range(8):
            tosses = first + second
            likely = [math.comb(tosses, heads) / 2**tosses for heads in range(tosses + 1)]
            as_extreme = sum(p for p in likely if p <= likely[first] * (1 + 1e-9))
            assert mcnemar(first, second) == pytest.approx(as_extreme)
    assert mcnemar(0, 0) == 1.0


def test_mcnemar_of_many_images_is_near_the_chi_square_form() -> None:
    for first, second in ((420, 350), (130, 90), (5_000, 5_100)):
        corrected = (abs(first - second) - 1) ** 2 / (first + second)
        assert mcnemar(first, second) == pytest.approx(stats.chi2.sf(corrected, 1), rel=0.03)
        assert mcnemar(first, second) == mcnemar(second, first)


def test_mcnemar_is_wrong_about_equal_models_at_most_5_times_in_100() -> None:
    heads = np.random.default_rng(0).binomial(30, 0.5, size=1_000)
    assert np.mean([mcnemar(int(count), 30 - int(count)) < 0.05 for count in heads]) <= 0.05


def test_the_t_interval_is_scipys() -> None:
    values = [0.912, 0.917, 0.905, 0.921, 0.909]
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    found = t_interval(values)
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(values), low, high))
    assert standard_deviation(values) == pytest.approx(np.std(values, ddof=1))
    with pytest.raises(ValueError, match="at least 2"):
        t_interval([0.9])
