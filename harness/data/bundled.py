"""`digits`: real handwritten digits that need no download."""

from collections.abc import Sequence

import numpy as np

from harness.data.augment import Augment
from harness.data.memory import tensors
from harness.data.part import Data


def digits(
    *,
    validation: int | float = 0.2,
    test: int | float = 0.2,
    augment: Sequence[Augment] | Augment = (),
    split_seed: int = 0,
) -> Data:
    """The 1,797 handwritten digits of 8x8 grey pixels that scikit-learn ships (Alpaydin and Kaynak 1998).

    Images (N, 1, 8, 8) uint8, their 17 grey levels spread over 0..255; ten classes; stratified parts.

    >>> data = digits()
    >>> len(data.train), len(data.validation), len(data.test)
    (1079, 359, 359)
    """
    from sklearn.datasets import load_digits

    pixels, targets = load_digits(return_X_y=True)
    images = np.round(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    return tensors(
        images,
        targets,
        validation=validation,
        test=test,
        augment=augment,
        split_seed=split_seed,
        name="digits",
    )
