import numpy as np
import pytest
import torch

from harness.data import Arrays, digits, tensors
from harness.data.split import split
from harness.errors import HarnessError


def test_a_split_is_seeded_stratified_and_loses_nothing() -> None:
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)[torch.randperm(100)]
    held_out, rest = split(labels, 100, (20,), seed=1)
    assert np.bincount(labels[held_out]).tolist() == [12, 6, 2]
    assert sorted([*held_out, *rest]) == list(range(100))
    assert np.array_equal(held_out, split(labels, 100, (20,), seed=1)[0])
    assert not np.array_equal(held_out, split(labels, 100, (20,), seed=2)[0])


def test_a_class_of_one_image_stays_in_training() -> None:
    labels = torch.tensor([0] * 20 + [1])
    for seed in range(5):
        assert 20 in split(labels, 21, (7,), seed=seed)[1]


def test_test_and_validation_are_split_off_without_overlap() -> None:
    inputs = torch.arange(100.0).unsqueeze(1)
    data = tensors(inputs, torch.arange(100) % 4, validation=0.1, test=20)
    parts = [data.train, data.validation, data.test]
    assert [len(part) for part in parts] == [70, 10, 20]
    assert sorted(value for part in parts for value in part.inputs.flatten().tolist()) == list(range(100))
    assert data.description["split"] == "stratified" and data.description["split_seed"] == 0


def test_numpy_arrays_and_tensors_give_the_same_data() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8), dtype=np.uint8)
    targets = np.arange(20) % 2
    first = tensors(images, targets)
    second = tensors(torch.tensor(images), torch.tensor(targets))
    assert first.digest == second.digest
    assert first.input_shape == (3, 8, 8) and first.mean is not None


def test_the_digest_changes_with_content_split_and_augmentation() -> None:
    images = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8)
    targets = torch.arange(20) % 2
    changed = images.clone()
    changed[3, 0, 0, 0] ^= 1
    digests = [
        tensors(images, targets).digest,
        tensors(changed, targets).digest,
        tensors(images, 1 - targets).digest,
        tensors(images, targets, split_seed=1).digest,
        tensors(images, targets, augment="flip").digest,
        tensors(images, targets, normalize=False).digest,
    ]
    assert len(set(digests)) == len(digests)
    assert tensors(images.clone(), targets).digest == digests[0]


def test_soft_targets_are_classification_and_stratified() -> None:
    soft = torch.eye(3)[torch.arange(30) % 3] * 0.7 + 0.1
    data = tensors(torch.randn(30, 4), soft, validation=6)
    assert data.is_classification and data.num_classes == 3
    assert isinstance(data.validation, Arrays)
    assert data.validation.targets.argmax(1).bincount().tolist() == [2, 2, 2]


@pytest.mark.parametrize("targets", [torch.randn(30), torch.randn(30, 1), torch.randn(30, 3)])
def test_other_numbers_are_regression(targets: torch.Tensor) -> None:
    data = tensors(torch.randn(30, 4), targets, test=5)
    assert not data.is_classification and data.num_classes is None and data.mean is None
    assert data.description["split"] == "random"


def test_normalising_features_uses_each_column_of_the_training_part() -> None:
    inputs = torch.randn(50, 3) * torch.tensor([1.0, 10.0, 0.0]) + 5
    data = tensors(inputs, torch.randn(50), normalize=True)
    ((values, _),) = data.batches(data.train, batch_size=100, device="cpu")
    assert torch.allclose(values.mean(0), torch.zeros(3), atol=1e-5)
    assert torch.allclose(values.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-5)


def test_statistics_of_bytes_are_exact() -> None:
    images = torch.randint(0, 256, (300, 3, 7, 9), dtype=torch.uint8)
    data = tensors(images, torch.arange(300) % 2, validation=(images, torch.arange(300) % 2))
    exact = images.double()
    assert data.mean is not None and data.std is not None
    assert torch.equal(data.mean, exact.mean((0, 2, 3)).float())
    assert torch.allclose(data.std, exact.std((0, 2, 3), correction=0).float(), rtol=1e-7)


def test_a_constant_channel_has_deviation_1() -> None:
    images = torch.full((10, 1, 4, 4), 7, dtype=torch.uint8)
    data = tensors(images, torch.arange(10) % 2)
    assert data.std is not None and data.std.tolist() == [1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": torch.zeros(9, dtype=torch.int64)}, "10 inputs do not go with 9 targets"),
        ({"targets": torch.arange(10) - 1}, "count classes from 0; the lowest is -1"),
        ({"classes": ("a", "b")}, "2 classes were named, but the targets need 10"),
        ({"classes": 3, "targets": torch.randn(10, 2)}, "regression"),
        ({"inputs": torch.full((10, 2), float("nan"))}, "inputs hold NaN"),
        ({"targets": torch.full((10,), float("inf"))}, "targets hold NaN"),
        ({"inputs": torch.zeros(10)}, r"need a shape \(N, ...\)"),
        ({"inputs": torch.zeros(10, 32, 32, 3, dtype=torch.uint8)}, r"look like \(N, H, W, C\)"),
        ({"validation": 10}, "nothing is left to train on"),
        ({"validation": 0}, "count of at least 1 or a fraction"),
        ({"validation": 1.5}, "count of at least 1 or a fraction"),
        ({"validation": (torch.zeros(3, 5), torch.zeros(3, dtype=torch.int64))}, "validation inputs"),
        ({"validation": (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))}, "there are no inputs"),
    ],
)
def test_a_mistake_gets_one_plain_sentence(arguments: dict[str, object], message: str) -> None:
    given = {"inputs": torch.randn(10, 2), "targets": torch.arange(10)} | arguments
    with pytest.raises(HarnessError, match=message) as caught:
        tensors(**given)  # type: ignore[arg-type]
    assert caught.value.exit_code == 2


def test_data_without_a_test_part_says_so() -> None:
    with pytest.raises(HarnessError, match="tensors has no test part") as caught:
        _ = tensors(torch.randn(10, 2), torch.arange(10) % 2).test
    assert caught.value.exit_code == 1


def test_digits_are_real_and_stratified() -> None:
    data = digits()
    assert data.input_shape == (1, 8, 8) and data.num_classes == 10
    assert isinstance(data.train, Arrays) and isinstance(data.validation, Arrays)
    assert data.train.inputs.dtype == torch.uint8 and int(data.train.inputs.max()) == 255
    counts = data.validation.targets.bincount()
    assert int(counts.max() - counts.min()) <= 3
    assert digits().digest == data.digest
