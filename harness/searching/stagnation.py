"""The chance that a curve still improves, given for how long it has not: counted in the search itself."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Stagnation:
    """How often a curve improved from one stage to the next, by the number of stages since its best epoch.

    A stage is an epoch at which trials wait. Each rate begins as one improvement in two (Laplace's rule).
    """

    def __init__(self, stages: Sequence[int]) -> None:
        self._stages = np.array(stages)
        self._seen = np.zeros(len(stages) + 1)
        self._improved = np.zeros(len(stages) + 1)

    def age(self, curve: Floats, epochs: int) -> int:
        """The stages since the best of a curve's first `epochs` epochs; 0 if it improved since the last stage."""
        best = int(np.argmin(curve[:epochs])) + 1 if epochs else 0
        return int(((self._stages > best) & (self._stages <= epochs)).sum())

    def note(self, curve: Floats, before: int) -> None:
        """Counts the stages of a curve that were reached after epoch `before`."""
        stages = [stage for stage in self._stages.tolist() if stage <= len(curve)]
        for stage, following in pairwise(stages):
            if following > before:
                age = self.age(curve, stage)
                self._seen[age] += 1
                self._improved[age] += curve[:following].min() < curve[:stage].min()

    def chances(self, ages: NDArray[np.int_], known: NDArray[np.int_]) -> Floats:
        """The chance of each point to improve until its last epoch; 1 for points without a known epoch."""
        stays = 1 - (self._improved + 1) / (self._seen + 2)
        count = len(self._stages)
        never = np.ones((count + 1, count + 1))  # by age, and by the number of stages that are left
        for stages in range(1, count + 1):
            never[:, stages] = stays * np.append(never[1:, stages - 1], never[-1, stages - 1])
        left = count - np.searchsorted(self._stages, known, side="right")
        return np.where(known > 0, 1 - never[ages, left], 1.0)
