import itertools

import numpy as np
import pytest
import torch

from harness.data import Arrays, cifar10, cifar100, fashion_mnist, image_folder, mnist, shapes
from harness.data.drawing import FIGURES
from harness.demo import demo
from harness.errors import HarnessError


def test_the_same_seed_gives_the_same_images() -> None:
    first, again, other = (shapes(train=60, validation=20, test=20, seed=seed) for seed in (4, 4, 5))
    assert first.digest == again.digest != other.digest
    assert isinstance(first.test, Arrays) and isinstance(again.test, Arrays)
    assert torch.equal(first.test.inputs, again.test.inputs)


def test_classes_are_equal_in_number_and_in_random_order() -> None:
    data = shapes(train=200, validation=50, test=50)
    assert isinstance(data.train, Arrays)
    assert data.train.targets.bincount().tolist() == [20] * 10
    assert data.train.targets.tolist() != sorted(data.train.targets.tolist())


def test_figures_differ_and_fit_into_the_unit_circle() -> None:
    axis = np.linspace(-1.3, 1.3, 64, dtype=np.float32)
    u, v = np.meshgrid(axis, axis)
    masks = {name: figure(u, v) < 0 for name, figure in FIGURES.items()}
    outside = np.hypot(u, v) > 1.12  # the tips of the star reach a little beyond
    for name, mask in masks.items():
        assert not (mask & outside).any(), name
        assert 0.1 < mask.sum() / (~outside).sum() < 0.8, name
    for first, second in itertools.combinations(masks.values(), 2):
        union, common = (first | second).sum(), (first & second).sum()
        assert common / union < 0.9


@pytest.mark.parametrize(("classes", "channels"), [(100, 3), (400, 3), (40, 1)])
def test_more_classes_are_figures_in_colours_and_fills(classes: int, channels: int) -> None:
    data = shapes(train=classes, validation=classes, test=1, classes=classes, channels=channels, size=16)
    assert data.classes is not None
    assert len(set(data.classes)) == classes
    assert isinstance(data.train, Arrays) and data.train.targets.unique().numel() == classes


@pytest.mark.parametrize("arguments", [{"classes": 401}, {"channels": 2}, {"train": 0}, {"size": 4}])
def test_impossible_shapes_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(HarnessError, match=next(iter(arguments))):
        shapes(**arguments)  # type: ignore[arg-type]


def test_demo_mode_stands_in_for_downloads_and_folders() -> None:
    with demo():
        for source, classes, shape in (
            (cifar10, 10, (3, 32, 32)),
            (cifar100, 100, (3, 32, 32)),
            (mnist, 10, (1, 28, 28)),
            (fashion_mnist, 10, (1, 28, 28)),
        ):
            data = source(augment=("crop", "flip"))
            assert (data.name, data.num_classes, data.input_shape) == ("shapes", classes, shape)
            assert data.augment == ("crop", "flip")
            assert len(data.train) == 2_000  # type: ignore[arg-type]
        assert image_folder("no/such/folder", size=16).input_shape == (3, 16, 16)
