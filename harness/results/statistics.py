"""Intervals and significance tests for plain numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[np.float64]

RESAMPLES = 10_000
FEW_VALUES = 64  # up to so many different values are drawn as counts; more are drawn one by one
MOST_DRAWS = 20_000_000  # indices in memory at once


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An estimate with its interval; `level` is the probability that such an interval contains the true value."""

    value: float
    low: float
    high: float
    level: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(
    differences: npt.ArrayLike, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """The mean of paired differences (N,) with its bootstrap interval, by resampling pairs.

    The interval is bias-corrected and accelerated (BCa), which allows for skew. It has no width if all differences
    are equal. Raises `ValueError` if there are none.

    Efron, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics 7, 1979; BCa: Efron,
    "Better Bootstrap Confidence Intervals", JASA 82, 1987.

    >>> found = paired_bootstrap([1] * 30 + [0] * 50 + [-1] * 20)
    >>> f"{found.value:.2f}, {found.low:.2f} to {found.high:.2f}"
    '0.10, -0.04 to 0.24'
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"differences of shape {values.shape}; expected (N,) with N of at least 1")
    mean = float(values.sum() / len(values))
    around = values - mean
    spread = float((around**2).sum())
    if spread <= len(values) * (8 * np.finfo(np.float64).eps * float(np.abs(values).max())) ** 2:
        return Estimate(value=mean, low=mean, high=mean, level=level)  # all equal, apart from rounding
    means = _resampled_means(values, resamples, np.random.default_rng(seed))
    # How far the resamples lie to one side of the mean, those on it counted half; no further than can be seen.
    below = float((means < mean).mean() + (means == mean).mean() / 2)
    bias = stats.norm.ppf(min(max(below, 0.5 / resamples), 1 - 0.5 / resamples))
    acceleration = float((around**3).sum()) / (6 * spread**1.5)  # the jackknife's, which a mean has in closed form
    tails = stats.norm.ppf([(1 - level) / 2, (1 + level) / 2])
    shifted = bias + tails
    low, high = np.quantile(means, stats.norm.cdf(bias + shifted / (1 - acceleration * shifted)))
    return Estimate(value=mean, low=float(low), high=float(high), level=level)


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided p-value of McNemar's test, exact at any count.

    `only_first` is the number of images that only the first model has right, `only_second` the number that only the
    second has right. If the models are equally good, each of these images is like a fair coin. Other images do not
    count.

    McNemar, "Note on the Sampling Error of the Difference Between Correlated Proportions or Percentages",
    Psychometrika 12, 1947.

    >>> round(mcnemar(15, 4), 4), mcnemar(7, 7)
    (0.0192, 1.0)
    """
    discordant = only_first + only_second
    return float(stats.binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0


def t_interval(values: Sequence[float], *, level: float = 0.95) -> Estimate:
    """The mean of independent values with Student's t interval; needs two values.

    Student, "The Probable Error of a Mean", Biometrika 6, 1908.

    >>> found = t_interval([0.91, 0.93, 0.92])
    >>> f"{found.value:.2f}, {found.low:.4f} to {found.high:.4f}"
    '0.92, 0.8952 to 0.9448'
    """
    if len(values) < 2:
        raise ValueError(f"{len(values)} values; an interval needs at least 2")
    mean = float(np.mean(values))
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * standard_deviation(values) / len(values) ** 0.5
    return Estimate(value=mean, low=mean - half, high=mean + half, level=level)


def share_interval(share: float, count: int, *, level: float = 0.95) -> Estimate:
    """A share of `count` independent cases with its Wilson interval.

    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22, 1927.

    >>> found = share_interval(0.36, 400)
    >>> f"{found.low:.3f} to {found.high:.3f}"
    '0.314 to 0.408'
    """
    z = float(stats.norm.ppf((1 + level) / 2))
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    return Estimate(value=share, low=middle - half, high=middle + half, level=level)


def shares_differ(first: float, second: float, count: int, *, level: float = 0.95) -> bool:
    """Whether two shares, each of `count` cases, differ by more than chance explains (a z-test, two-sided).

    The cases are taken as independent. Of the same images, two models are often wrong on the same ones, and a
    test by pairs (`mcnemar`) sees smaller differences.

    >>> shares_differ(0.36, 0.32, 400), shares_differ(0.36, 0.29, 400)
    (False, True)
    """
    pooled = (first + second) / 2
    deviation = (2 * pooled * (1 - pooled) / count) ** 0.5
    return bool(abs(first - second) > float(stats.norm.ppf((1 + level) / 2)) * deviation)


def standard_deviation(values: Sequence[float]) -> float:
    """The standard deviation of a sample, with the divisor N - 1.

    >>> standard_deviation([1.0, 2.0, 3.0])
    1.0
    """
    return float(np.std(values, ddof=1))


def _resampled_means(values: Array, resamples: int, generator: np.random.Generator) -> Array:
    """The means of resamples of `values` (N,), each with N values. -> (resamples,)"""
    count = len(values)
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= FEW_VALUES:  # such as right or wrong: draw how often each value occurs
        drawn = generator.multinomial(count, counts / count, size=resamples)  # (resamples, distinct)
        return np.asarray(drawn @ distinct / count, dtype=np.float64)
    means = np.empty(resamples)
    rows = max(1, MOST_DRAWS // count)
    for start in range(0, resamples, rows):
        stop = min(start + rows, resamples)
        means[start:stop] = values[generator.integers(count, size=(stop - start, count), dtype=np.int32)].mean(1)
    return means
