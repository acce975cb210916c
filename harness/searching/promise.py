"""How good a configuration may become: a Gaussian process over configurations and epochs, fitted as epochs are seen.

What two looks at configurations have to do with each other is fixed beforehand: those of one epoch have something in
common, those of near configurations more, those of one part of the curve more still. The values themselves are
replaced by their normal scores: only their order counts, so that losses and accuracies are treated alike. A look is
added in the time of a product of a matrix and a vector. (Freeze-thaw Bayesian optimisation: Swersky et al., 2014.)
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata

Floats = NDArray[np.float64]

EPOCH, POINT, CURVE, NOISE = 1.0, 0.6, 0.4, 0.02  # variances: of an epoch, of a point, of a point's curve, of a look
POINT_LENGTH = 0.35  # of the cube of points, times the root of its dimensions
EPOCH_LENGTH = 0.7  # of the logarithm of all epochs
MOST, KEPT = 1_000, 600  # looks that are modelled; when there are more, so many are kept
SQRT3 = 3**0.5


class Promise:
    """What is to be expected of each point at its last epoch."""

    def __init__(self, places: Floats, epochs: int) -> None:
        self._places = places / (POINT_LENGTH * max(1, places.shape[1]) ** 0.5)
        self._when = np.log(np.arange(1, epochs + 1)) / np.log(max(epochs, 2)) / EPOCH_LENGTH
        self._looks: list[tuple[int, int, float]] = []  # point, epoch from 1, value: lower is better
        self._rows: list[tuple[int, int]] = []
        self._count = 0
        self._explained = np.zeros(len(places))
        self._reset()

    def __len__(self) -> int:
        return len(self._looks)

    @property
    def best(self) -> float:
        """The best value that was seen."""
        return min((value for _, _, value in self._looks), default=np.inf)

    def add(self, point: int, epoch: int, value: float) -> None:
        """Takes in the best value that a point had by an epoch (from 1); infinite where it diverged."""
        if len(self._looks) == MOST:
            early, late = self._looks[: -KEPT // 2], self._looks[-KEPT // 2 :]
            kept = sorted(range(len(early)), key=lambda i: early[i][2])[: KEPT // 2]
            looks = [early[i] for i in sorted(kept)] + late
            self._looks = []
            self._reset()
            for look in looks:
                self.add(*look)
        self._looks.append((point, epoch, value))
        self._extend(point, epoch)

    def improvements(self, supposed: Sequence[tuple[int, int]] = ()) -> Floats:
        """The improvement on the best value that is to be expected of each point, as a logarithm.

        `supposed` are looks that are on their way: they are taken to bring what is expected of them.
        """
        count = len(self._looks)
        ranks = rankdata([value for _, _, value in self._looks])
        scores = ndtri((ranks - 0.5) / count)
        mean, spread = self._predict(scores)
        if supposed:
            before = self._rows, self._count, self._explained.copy()
            for point, epoch in supposed:
                self._extend(point, epoch)
            _, spread = self._predict(np.zeros(self._count))
            self._rows, self._count, self._explained = before
        distance = (scores.min() - mean) / spread
        expected = spread * (distance * ndtr(distance) + np.exp(-(distance**2) / 2) / (2 * np.pi) ** 0.5)
        return np.asarray(np.log(np.maximum(expected, 0) + 1e-30))

    def _reset(self) -> None:
        self._rows, self._count = [], 0
        self._factor = np.zeros((64, 64))  # Cholesky's, of the looks
        self._solved = np.zeros((64, len(self._places)))  # the same applied to what looks and ends have in common
        self._explained = np.zeros(len(self._places))

    def _extend(self, point: int, epoch: int) -> None:
        """Adds one row to the factor: what a look has in common with the looks before it, and with every end."""
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
        """The covariance of a look and others: Matérn's 3/2 over points, exponential over the logarithm of epochs."""
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
