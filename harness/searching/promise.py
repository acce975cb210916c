"""How good a configuration may become: a Gaussian process over configurations and epochs, fitted as epochs are seen.

An observation is the best value of one configuration by one epoch. The covariance of two observations is larger for the
same epoch, for near configurations, and for near epochs of one configuration. Where ranges are continuous, how near two
configurations are is learned; otherwise it is fixed, since siblings are known by the epochs that they share. The values
are replaced by their normal scores, so only their order counts, and losses and accuracies are treated alike. Adding an
observation costs one product of a matrix and a vector. (Freeze-thaw Bayesian optimisation: Swersky et al., 2014.)
"""

import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata
from threadpoolctl import ThreadpoolController

Floats = NDArray[np.float64]

# Variances: of an epoch, of a point, of a point's curve, of an observation.
EPOCH, POINT, CURVE, NOISE = 1.0, 0.6, 0.4, 0.02
POINT_LENGTH = 0.35  # length scale over the cube of points, times the square root of its dimensions
EPOCH_LENGTH = 0.7  # length scale over epochs, as a part of the logarithm of all epochs
FIT_FROM = 16  # observations from which on, at each power of two, length scales are fitted
SHORTEST, LONGEST = 0.25, 4.0  # length scale of a coordinate, as a multiple of the one above
PASSES = 2  # over all coordinates, in a fit
MOST, KEPT = 1_000, 600  # observations in the model; if there are more, so many are kept
SQRT3 = 3**0.5


class Promise:
    """The expected improvement of each point at its last epoch.

    With `is_fitted`, each coordinate of the points has a length scale of its own, of the largest marginal likelihood.
    """

    def __init__(self, places: Floats, epochs: int, *, is_fitted: bool = False) -> None:
        self._is_fitted = is_fitted
        self._unscaled = places / (POINT_LENGTH * max(1, places.shape[1]) ** 0.5)
        self._lengths = np.ones(places.shape[1])
        self._places = self._unscaled
        self._when = np.log(np.arange(1, epochs + 1)) / np.log(max(epochs, 2)) / EPOCH_LENGTH
        self._looks: list[tuple[int, int, float]] = []  # point, epoch from 1, value: lower is better
        self._rows: list[tuple[int, int]] = []
        self._count = 0
        self._explained = np.zeros(len(places))
        self._libraries = ThreadpoolController()
        self._reset()

    def __len__(self) -> int:
        return len(self._looks)

    @property
    def best(self) -> float:
        """The best observed value."""
        return min((value for _, _, value in self._looks), default=np.inf)

    def add(self, point: int, epoch: int, value: float) -> None:
        """Adds an observation: the best value of a point by an epoch (from 1); infinite if it diverged."""
        with self._one_thread():
            if len(self._looks) == MOST:
                early, late = self._looks[: -KEPT // 2], self._looks[-KEPT // 2 :]
                kept = sorted(range(len(early)), key=lambda i: early[i][2])[: KEPT // 2]
                self._looks = [early[i] for i in sorted(kept)] + late
                self._make_factor()
            self._looks.append((point, epoch, value))
            count = len(self._looks)
            if self._is_fitted and count >= FIT_FROM and count.bit_count() == 1:
                self._fit()
            else:
                self._extend(point, epoch)

    def improvements(
        self, points: NDArray[np.int_], supposed: Sequence[tuple[int, int]] = (), *, over_expected: bool = False
    ) -> Floats:
        """The logarithm of the expected improvement of each of these points over the best observed value.

        With `over_expected`, where no point is expected to reach that value, it is the improvement over the best value
        that is expected of one of them. `supposed` are the observations of running trials: the model takes their
        expected value for them.
        """
        with self._one_thread():
            return self._improvements(points, supposed, over_expected=over_expected)

    def _improvements(
        self, points: NDArray[np.int_], supposed: Sequence[tuple[int, int]], *, over_expected: bool
    ) -> Floats:
        scores = self._scores()
        mean, spread = self._predict(scores)
        if supposed:
            before = self._rows, self._count, self._explained.copy()
            for point, epoch in supposed:
                self._extend(point, epoch)
            _, spread = self._predict(np.zeros(self._count))
            self._rows, self._count, self._explained = before
        mean, spread = mean[points], spread[points]
        target = max(scores.min(), mean.min()) if over_expected else scores.min()
        distance = (target - mean) / spread
        expected = spread * (distance * ndtr(distance) + np.exp(-(distance**2) / 2) / (2 * np.pi) ** 0.5)
        return np.asarray(np.log(np.maximum(expected, 0) + 1e-30))

    def _scores(self) -> Floats:
        """The normal scores of the observed values: lower is better."""
        ranks = rankdata([value for _, _, value in self._looks])
        return np.asarray(ndtri((ranks - 0.5) / len(ranks)))

    def _fit(self) -> None:
        """Halves or doubles length scales as long as that explains the observations better; makes the factor anew."""
        scores, best = self._scores(), self._lengths
        value = self._likelihood(best, scores)
        for _, place, times in itertools.product(range(PASSES), range(len(best)), (0.5, 2.0)):
            tried = best.copy()
            tried[place] = np.clip(tried[place] * times, SHORTEST, LONGEST)
            if (found := self._likelihood(tried, scores)) > value:
                best, value = tried, found
        self._lengths, self._places = best, self._unscaled / best
        self._make_factor()

    def _likelihood(self, lengths: Floats, scores: Floats) -> float:
        """The logarithm of the marginal likelihood of the scores, but for a constant."""
        points, epochs = np.array([look[:2] for look in self._looks]).T
        self._places = self._unscaled / lengths
        common = np.array([self._common(p, e, points, epochs) for p, e in zip(points, epochs, strict=True)])
        factor = np.linalg.cholesky(common + NOISE * np.eye(len(scores)))
        rest = solve_triangular(factor, scores, lower=True, check_finite=False)
        return float(-rest @ rest / 2 - np.log(np.diag(factor)).sum())

    def _one_thread(self) -> AbstractContextManager[Any]:
        """Inside the block BLAS uses one thread: the cores are busy with training, and the bits are the same on any."""
        limited: AbstractContextManager[Any] = self._libraries.limit(limits=1, user_api="blas")
        return limited

    def _reset(self) -> None:
        self._rows, self._count = [], 0
        # The Cholesky factor of the observations' covariance, and its inverse times their covariance with last epochs.
        self._factor, self._solved = np.zeros((64, 64)), np.zeros((64, len(self._places)))
        self._explained = np.zeros(len(self._places))

    def _make_factor(self) -> None:
        """The factor of all observations, from the first one on."""
        self._reset()
        for point, epoch, _ in self._looks:
            self._extend(point, epoch)

    def _extend(self, point: int, epoch: int) -> None:
        """Adds one row to the factor: an observation's covariance with the earlier ones and with every last epoch."""
        count = self._count
        if count == len(self._factor):
            factor, solved = np.zeros((2 * count, 2 * count)), np.zeros((2 * count, len(self._places)))
            factor[:count, :count], solved[:count] = self._factor, self._solved
            self._factor, self._solved = factor, solved
        points = np.array([p for p, _ in self._rows], dtype=int)
        epochs = np.array([e for _, e in self._rows], dtype=int)
        row = solve_triangular(
            self._factor[:count, :count], self._common(point, epoch, points, epochs), lower=True, check_finite=False
        )
        rest = max(EPOCH + POINT + CURVE + NOISE - row @ row, 1e-8) ** 0.5
        ends = self._common(point, epoch, np.arange(len(self._places)), np.array([len(self._when)]))
        self._factor[count, :count], self._factor[count, count] = row, rest
        self._solved[count] = (ends - row @ self._solved[:count]) / rest
        self._explained = self._explained + self._solved[count] ** 2
        self._rows = [*self._rows, (point, epoch)]
        self._count += 1

    def _common(self, point: int, epoch: int, points: NDArray[np.int_], epochs: NDArray[np.int_]) -> Floats:
        """The covariance of an observation and others: Matérn 3/2 over points, exponential over the log of epochs."""
        if not len(points):
            return np.zeros(0)
        apart = SQRT3 * np.sqrt(((self._places[points] - self._places[point]) ** 2).sum(1))
        near = (1 + apart) * np.exp(-apart)
        soon = np.exp(-np.abs(self._when[epochs - 1] - self._when[epoch - 1]))
        return np.asarray(EPOCH * soon + POINT * near + CURVE * near * soon)

    def _predict(self, scores: Floats) -> tuple[Floats, Floats]:
        count = self._count
        weights = solve_triangular(self._factor[:count, :count], scores, lower=True, check_finite=False)
        mean = weights @ self._solved[:count]
        return mean, np.sqrt(np.maximum(EPOCH + POINT + CURVE - self._explained, 1e-6))
