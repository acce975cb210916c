"""What decides which images an epoch sees: weights, samplers, collate functions, epochs of so many steps."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import RandomSampler, Sampler, TensorDataset, WeightedRandomSampler, default_collate

from harness.data import Data, datasets, tensors
from harness.errors import HarnessError

NUMBERS = torch.arange(22)


def resident(count: int = 22) -> Data:
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    part = (images[:2], torch.arange(2))
    return tensors(images, torch.arange(count), validation=part, augment=("flip", "crop"), normalize=False)


def loaded(count: int = 22, **more: Any) -> Data:
    part = TensorDataset(torch.arange(count).float().unsqueeze(1), torch.arange(count))
    return datasets(train=part, validation=part, **more)


def seen(data: Data, *, epoch: int = 0, seed: int = 0, batch_size: int = 4, **more: Any) -> list[list[int]]:
    """The targets of an epoch's batches."""
    batches = data.train_batches(batch_size=batch_size, seed=seed, epoch=epoch, device="cpu", **more)
    return [targets.tolist() for _, targets in batches]


@pytest.mark.parametrize("make", [resident, loaded])
def test_epochs_of_so_many_steps_are_the_passes_one_after_the_other(make: Any) -> None:
    data = make()
    passes = [batch for number in range(4) for batch in seen(data, epoch=number)]
    assert [len(batch) for batch in passes[:6]] == [4, 4, 4, 4, 4, 2]
    for steps in (1, 4, 6, 13):
        epochs = [seen(data, epoch=epoch, epoch_steps=steps) for epoch in range(24 // steps)]
        assert [batch for epoch in epochs for batch in epoch] == passes[: 24 // steps * steps]
        assert seen(data, epoch=1, epoch_steps=steps) == epochs[1 % len(epochs)] or steps == 13
        assert data.steps(4, epoch_steps=steps) == steps


@pytest.mark.parametrize("steps", [None, 4, 13])
def test_an_epoch_as_indices_is_the_same_as_its_batches(steps: int | None) -> None:
    data = resident()
    sizes = set()
    for epoch in range(3):
        more = {"epoch_steps": steps}
        shuffled = data.shuffle(seed=0, epoch=epoch, batch_size=4, **more)
        sizes.add(tuple(tuple(tensor.shape) for tensor in shuffled.tensors()))
        spans = data.spans(4, epoch=epoch, **more)
        found = [data.batch(shuffled, torch.arange(start, stop)) for start, stop in spans]
        expected = list(data.train_batches(batch_size=4, seed=0, epoch=epoch, device="cpu", **more))
        for (inputs, targets), (own, own_targets) in zip(found, expected, strict=True):
            assert torch.equal(inputs, own) and torch.equal(targets, own_targets)
    assert len(sizes) == 1, "every epoch takes the same memory"


def test_workers_draw_anew_in_every_epoch_of_a_pass() -> None:
    class Drawing(TensorDataset):
        def __getitem__(self, index: int) -> tuple[Tensor, ...]:
            return torch.rand(1), torch.tensor(index % 2)

    part = Drawing(torch.zeros(12, 1))
    data = datasets(train=part, validation=part, classes=2, workers=1)

    def draws(epoch: int) -> list[float]:
        batches = data.train_batches(batch_size=4, seed=0, epoch=epoch, device="cpu", epoch_steps=1)
        return [value for inputs, _ in batches for value in inputs.flatten().tolist()]

    assert draws(1) == draws(1) and set(draws(0)).isdisjoint(draws(1))


@pytest.mark.parametrize("make", [resident, loaded])
def test_weights_say_how_often_an_image_is_drawn(make: Any) -> None:
    plain = make(40)
    data = plain.weighted([0.0] * 20 + [1.0] * 10 + [3.0] * 10)
    counts = torch.zeros(40)
    for epoch in range(30):
        for batch in seen(data, epoch=epoch):
            counts += torch.tensor(batch).bincount(minlength=40)
    assert counts.sum() == 30 * 40 and counts[:20].sum() == 0
    assert 2.4 < counts[30:].sum() / counts[20:30].sum() < 3.6
    assert data.digest != plain.digest and seen(data, epoch=1) == seen(data, epoch=1) != seen(data, epoch=2)


def test_balanced_classes_are_drawn_equally_often() -> None:
    targets = torch.tensor([0] * 90 + [1] * 10)
    part = (torch.zeros(2, 3), torch.arange(2))
    for data in (
        tensors(torch.zeros(100, 3), targets, validation=part),
        datasets(train=TensorDataset(torch.zeros(100, 3), targets), validation=TensorDataset(*part)),
    ):
        share = np.mean(
            [target for epoch in range(10) for batch in seen(data.balanced(), epoch=epoch) for target in batch]
        )
        assert 0.44 < share < 0.56


@pytest.mark.parametrize(
    ("weights", "message"),
    [([1.0] * 3, "22 training images, but weights of shape"), ([0.0] * 22, "not all 0"), ([-1.0] * 22, "not negative")],
)
def test_weights_that_cannot_be_drawn_by_are_explained(weights: list[float], message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        resident().weighted(weights)
    with pytest.raises(HarnessError, match="needs targets that are classes"):
        tensors(torch.zeros(9, 2), torch.randn(9)).balanced()


class Own(Sampler[int]):
    """Draws from a generator of its own."""

    def __init__(self) -> None:
        self.chance: Any = np.random.default_rng(0)

    def __len__(self) -> int:
        return 10

    def __iter__(self) -> Iterator[int]:
        return iter(self.chance.permutation(22)[:10].tolist())


class ByEpoch(Own):
    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(np.random.default_rng(self.epoch).permutation(22)[:10].tolist())


class Counting(ByEpoch):
    def __iter__(self) -> Iterator[int]:
        self.epoch += 1
        return super().__iter__()


@pytest.mark.parametrize(
    "sampler",
    [
        WeightedRandomSampler([0.0] * 11 + [1.0] * 11, 10),
        WeightedRandomSampler([1.0] * 22, 10, generator=torch.Generator()),
        RandomSampler(NUMBERS, replacement=True, num_samples=10),  # type: ignore[arg-type]
        Own(),
        ByEpoch(),
    ],
)
def test_a_sampler_gives_what_the_seed_and_the_pass_say(sampler: Any) -> None:
    data = loaded(sampler=sampler)
    assert data.steps(4) == 3 and data.spans(4)[-1] == (8, 10)
    first = seen(data, seed=1, epoch=0)
    state = torch.get_rng_state()
    second = seen(data, seed=1, epoch=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert first != second
    assert seen(loaded(sampler=sampler), seed=1, epoch=1) == second
    assert seen(data, seed=1, epoch=0, epoch_steps=2) == first[:2]


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (Counting(), r"keeps count of its passes \(its attribute epoch changes\)"),
        ([[0, 1], [2]], "lists of indices"),
        ([0, 99], "index 99; there are 22"),
        (3, "must be a torch Sampler"),
        (iter([1]), "only once"),
        ([], "no index"),
    ],
)
def test_a_sampler_whose_order_would_not_repeat_is_refused(sampler: Any, message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        loaded(sampler=sampler)


def mixed(items: Any) -> tuple[Tensor, Tensor]:
    """Mixup, from all three global generators."""
    inputs, targets = default_collate(items)
    share = (float(torch.rand(())) + random.random() + np.random.rand()) / 3
    soft = torch.nn.functional.one_hot(targets, 22).float()
    return share * inputs + (1 - share) * inputs.roll(1, 0), share * soft + (1 - share) * soft.roll(1, 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_collate_function_makes_the_training_batches_alone(workers: int) -> None:
    data = loaded(collate_fn=mixed, workers=workers)

    def batches(epoch: int) -> list[tuple[Tensor, Tensor]]:
        torch.manual_seed(epoch)
        random.seed(epoch)
        np.random.seed(epoch)
        return list(data.train_batches(batch_size=11, seed=0, epoch=epoch, device="cpu"))

    first, again, other = batches(0), batches(0), batches(1)
    assert all(torch.equal(left[0], right[0]) for left, right in zip(first, again, strict=True))
    assert first[0][1].shape == (11, 22) and not torch.equal(first[0][0], other[0][0])
    ((inputs, targets),) = data.batches(data.validation, batch_size=22, device="cpu")
    assert torch.equal(inputs[:, 0], NUMBERS.float()) and torch.equal(targets, NUMBERS)
    assert data.num_classes == 22, "soft targets in training go with classes in validation"


def test_items_of_any_kind_are_taken_where_functions_collate_them() -> None:
    class Named(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            return {"image": torch.zeros(2), "label": index % 2}

    def collated(items: Any) -> tuple[Tensor, Tensor]:
        return torch.stack([item["image"] for item in items]), torch.tensor([item["label"] for item in items])

    part = Named(torch.zeros(6, 1))
    data = datasets(train=part, validation=part, classes=2, collate_fn=collated, evaluation_collate_fn=collated)
    assert data.num_classes == 2 and data.input_shape == (2,)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda items: 3, r"must give a pair \(inputs, targets\), not int"),
        (lambda items: (torch.zeros(3, 1), torch.zeros(2)), "3 inputs and 2 targets for 22 items"),
        (lambda items: ([1], [2]), "two tensors, not 1 values and 1 values"),
        (lambda items: (torch.zeros(22, 1, 2, 2).byte(), torch.zeros(22)), "must make them alike"),
    ],
)
def test_what_a_collate_function_must_give_is_said(made: Any, message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        loaded(collate_fn=made, classes=22)


def test_targets_of_0_and_1_are_labels() -> None:
    labels = (torch.rand(20, 3, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    assert tensors(torch.randn(20, 2), labels).is_multilabel
    part = TensorDataset(torch.randn(20, 2), labels)
    assert datasets(train=part, validation=part).is_multilabel
    assert not tensors(torch.randn(20, 2), torch.randn(20, 3)).is_multilabel
    assert not tensors(torch.randn(20, 2), torch.eye(2).repeat(10, 1)).is_multilabel, "one class an image"


def test_soft_and_whole_targets_must_be_over_the_same_classes() -> None:
    soft = (torch.randn(4, 2), torch.softmax(torch.randn(4, 5), 1))
    assert tensors(*soft, validation=(torch.randn(3, 2), [0, 1, 4])).num_classes == 5
    with pytest.raises(HarnessError, match="soft targets are over 5 classes, but there are 7"):
        tensors(*soft, validation=(torch.randn(3, 2), [0, 1, 6]))


def test_a_run_has_loader_workers_and_functions_of_its_own(harness: Any, spec: Any) -> None:
    text = spec.read_text().replace(
        "return tensors(inputs, targets, validation=0.25, test=0.25)", "return own(inputs, targets)"
    )
    spec.write_text(text + OWN_DATA)
    done = harness("train", spec, "--epochs", 2, "--store", "store")
    assert "train-0001  finished" in done.out, done


OWN_DATA = """

def own(inputs, targets):
    from torch.utils.data import TensorDataset, default_collate

    from harness.data import datasets

    part = TensorDataset(inputs, targets)
    return datasets(train=part, validation=part, workers=1, collate_fn=lambda items: default_collate(items))
"""
