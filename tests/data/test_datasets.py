import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset, default_collate

from harness.data import Data, datasets, loader
from harness.errors import HarnessError


class Noisy(Dataset[tuple[Tensor, int]]):
    """Items with three kinds of randomness, as people's transforms have."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor([index, torch.rand(()), random.random(), np.random.rand()]), index % 2


class Pictures(Dataset[tuple[Image.Image, int]]):
    classes = ("dark", "light")

    def __init__(self, mode: str = "RGB") -> None:
        self.mode = mode

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (8, 8), (index * 20,) * 3).convert(self.mode), int(index > 5)


def epoch_of(data: Data, *, seed: int = 0, epoch: int = 0) -> Tensor:
    torch.manual_seed(epoch)
    random.seed(epoch)
    np.random.seed(epoch)
    batches = data.train_batches(batch_size=4, seed=seed, epoch=epoch, device="cpu")
    return torch.cat([inputs for inputs, _ in batches])


@pytest.mark.parametrize("workers", [0, 2])
def test_random_transforms_repeat_with_seed_and_epoch(workers: int) -> None:
    data = datasets(train=Noisy(), validation=Noisy(), workers=workers)
    first = epoch_of(data, seed=1, epoch=3)
    epoch_of(data, seed=1, epoch=4)
    assert torch.equal(first, epoch_of(data, seed=1, epoch=3))
    other = epoch_of(data, seed=1, epoch=4)
    assert not torch.equal(first[:, 0], other[:, 0])
    for column in (1, 2, 3):
        assert set(first[:, column].tolist()).isdisjoint(other[:, column].tolist())
        assert first[:, column].unique().numel() == 20


def test_what_cannot_be_sent_to_loader_processes_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils.data import default_collate

    data = datasets(train=Noisy(), validation=Noisy(), workers=2, collate_fn=lambda items: default_collate(items))
    if loader.FORK is not None:  # there it need not be sent
        assert epoch_of(data).shape == (20, 4)
    monkeypatch.setattr(loader, "FORK", "spawn")
    with pytest.raises(HarnessError, match=r"collate_fn cannot be sent to 2 loader processes: .*lambda.*workers=0"):
        epoch_of(data)


def test_loading_batches_leaves_the_global_generators_alone() -> None:
    part = TensorDataset(torch.randn(8, 3), torch.arange(8) % 2)
    state = torch.get_rng_state()
    data = datasets(train=part, validation=part)
    list(data.train_batches(batch_size=4, seed=0, epoch=0, device="cpu"))
    list(data.batches(data.validation, batch_size=4, device="cpu"))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1), ("P", 3)])
def test_pil_images_become_normalised_tensors(mode: str, channels: int) -> None:
    data = datasets(train=Pictures(mode), validation=Pictures(mode))
    assert data.classes == ("dark", "light") and data.input_shape == (channels, 8, 8)
    inputs = epoch_of(data)
    assert inputs.shape == (12, channels, 8, 8) and inputs.dtype == torch.float32
    assert abs(float(inputs.mean())) < 1e-5 and abs(float(inputs.std(correction=0)) - 1) < 1e-5


def test_images_of_a_dataset_are_augmented_for_training_only() -> None:
    plain = datasets(train=Pictures(), validation=Pictures())
    augmented = datasets(train=Pictures(), validation=Pictures(), augment=("crop", "flip", "cutout"))
    assert not torch.equal(epoch_of(plain), epoch_of(augmented))
    assert torch.equal(epoch_of(augmented), epoch_of(augmented))
    for first, second in zip(
        plain.batches(plain.validation, batch_size=5, device="cpu"),
        augmented.batches(augmented.validation, batch_size=5, device="cpu"),
        strict=True,
    ):
        assert torch.equal(first[0], second[0])


def test_classes_are_counted_where_nothing_names_them() -> None:
    part = TensorDataset(torch.randn(200, 3), torch.arange(200) % 7)
    assert datasets(train=part, validation=part).num_classes == 7
    assert datasets(train=part, validation=part, classes=9).num_classes == 9


def test_float_targets_are_regression() -> None:
    part = TensorDataset(torch.randn(8, 3), torch.randn(8, 1))
    data = datasets(train=part, validation=part)
    assert not data.is_classification
    (batch,) = data.batches(data.validation, batch_size=8, device="cpu")
    assert batch[1].shape == (8, 1) and batch[1].dtype == torch.float32


def test_the_digest_follows_the_items_or_is_given() -> None:
    inputs = torch.randn(50, 3)
    part = TensorDataset(inputs, torch.arange(50) % 2)
    changed = TensorDataset(inputs + 1, torch.arange(50) % 2)
    digest = datasets(train=part, validation=part).digest
    assert digest == datasets(train=part, validation=part).digest
    assert digest != datasets(train=changed, validation=part).digest
    assert datasets(train=part, validation=part, digest="mine").digest == "mine"
    assert datasets(train=Noisy(), validation=part, classes=2).digest == (
        datasets(train=Noisy(), validation=part, classes=2).digest
    )


def test_the_test_part_may_be_a_function_that_is_called_when_asked() -> None:
    part = TensorDataset(torch.randn(8, 3), torch.arange(8) % 2)
    calls = []
    data = datasets(train=part, validation=part, test=lambda: calls.append(1) or part)
    assert calls == []
    assert data.test is part and data.test is part
    assert calls == [1]


class Endless(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(())


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (Endless(), "must be a torch Dataset with a length"),
        ([1, 2], "must be a torch Dataset with a length, not list"),
        (TensorDataset(torch.zeros(0, 3), torch.zeros(0)), "is empty"),
        (TensorDataset(torch.zeros(4, 3)), r"must be pairs \(input, target\)"),
    ],
)
def test_what_is_no_dataset_of_pairs_is_refused(train: Dataset[object], message: str) -> None:
    part = TensorDataset(torch.randn(8, 3), torch.arange(8) % 2)
    with pytest.raises(HarnessError, match=message):
        datasets(train=train, validation=part)


def test_inputs_of_different_shapes_are_explained() -> None:
    class Uneven(Pictures):
        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            return Image.new("RGB", (8 + index, 8)), 0

    with pytest.raises(HarnessError, match="transform that makes them one size"):
        datasets(train=Uneven(), validation=Uneven())


@pytest.mark.parametrize("device", ("cuda", "cpu"))
def test_batches_go_to_a_gpu_from_pinned_memory_without_a_wait(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Noting:
        """A batch that notes where it was sent."""

        def __init__(self) -> None:
            self.sent: list[tuple[torch.device, bool]] = []

        def to(self, device: torch.device, *, non_blocking: bool) -> "Noting":
            self.sent.append((device, non_blocking))
            return self

    inputs, targets = Noting(), Noting()
    options: dict[str, Any] = {}

    def load(*_: object, **given: Any) -> list[tuple[Noting, Noting]]:
        options.update(given)
        return [(inputs, targets)]

    monkeypatch.setattr(loader, "DataLoader", load)
    there = torch.device(device)
    found = loader._load(Noisy(), [[0]], default_collate, generator=torch.Generator(), device=there, workers=0)
    assert list(found) == [(inputs, targets)]
    assert options["pin_memory"] is (device == "cuda")
    assert inputs.sent == targets.sent == [(there, device == "cuda")]
