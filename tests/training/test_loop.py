"""The loop computes what the plain loop of a textbook computes."""

from typing import Any

import pytest
import torch
from plain_parts import plain_parts
from torch import Tensor, nn, optim

from harness.training.loop import evaluate, train_epoch
from harness.training.measures import accuracy, mean_absolute_error
from harness.training.parts import Parts

CPU: dict[str, Any] = {"device": torch.device("cpu"), "precision": "float32"}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))


def evaluated(model: nn.Module, measures: dict[str, Any]) -> Parts:
    return plain_parts(model, optim.SGD(model.parameters()), measures=measures)


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    inputs, targets = torch.randn(50, 4, generator=generator), torch.arange(50) % 3
    return list(zip(inputs.split(16), targets.split(16), strict=True))


def test_an_epoch_is_that_of_the_textbook() -> None:
    ours, theirs = net(), net()
    optimizer = optim.SGD(ours.parameters(), lr=0.1, momentum=0.9)
    loss = nn.CrossEntropyLoss()
    torch.manual_seed(7)
    told = train_epoch(plain_parts(ours, optimizer, measures={"accuracy": accuracy}), batches(), **CPU)

    optimizer = optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)
    torch.manual_seed(7)
    total = hits = 0.0
    for inputs, targets in batches():
        outputs = theirs(inputs)
        value = loss(outputs, targets)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        total += value.item() * len(inputs)
        hits += (outputs.argmax(1) == targets).sum().item()

    assert all(torch.equal(left, right) for left, right in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert told == {"loss": pytest.approx(total / 50, rel=1e-6), "accuracy": hits / 50}


def test_evaluation_changes_nothing_and_weighs_the_last_batch_by_its_images() -> None:
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    told = evaluate(evaluated(model, {"accuracy": accuracy}), batches(), **CPU)
    inputs, targets = (torch.cat(part) for part in zip(*batches(), strict=True))
    with torch.no_grad():
        outputs = model.eval()(inputs)
    assert told["loss"] == pytest.approx(nn.CrossEntropyLoss()(outputs, targets).item(), rel=1e-6)
    assert told["accuracy"] == pytest.approx((outputs.argmax(1) == targets).float().mean().item())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_scheduler_can_step_every_batch() -> None:
    model = net()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    scheduler = optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    train_epoch(plain_parts(model, optimizer), batches(), after_step=scheduler.step, **CPU)
    assert optimizer.param_groups[0]["lr"] == 0.1 * 0.5**4


class Count:
    """A measure that keeps its own state, as those of torchmetrics do."""

    def reset(self) -> None:
        self.batches = 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.batches += 1

    def compute(self) -> Tensor:
        return torch.tensor(self.batches)


def test_measures_are_values_an_image_means_a_batch_or_objects() -> None:
    measures = {
        "mean": lambda outputs, targets: targets.float().mean(),
        "count": Count(),
        "each": lambda outputs, targets: targets.float(),
    }
    for _ in range(2):  # an object starts anew
        told = evaluate(evaluated(net(), measures), batches(), **CPU)
        assert list(told) == ["loss", "mean", "count", "each"]
        assert told["mean"] == pytest.approx(told["each"]) == pytest.approx((torch.arange(50) % 3).float().mean())
        assert told["count"] == 4


def test_bfloat16_keeps_float32_parameters_and_losses() -> None:
    model = net()
    seen: set[torch.dtype] = set()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.add(outputs.dtype)
        return nn.functional.cross_entropy(outputs, targets)

    optimizer = optim.SGD(model.parameters(), lr=0.1)
    device = torch.device("cpu")
    parts = plain_parts(model, optimizer, loss=loss)
    coarse = train_epoch(parts, batches(), device=device, precision="bfloat16")
    torch.manual_seed(0)
    assert seen == {torch.float32}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert coarse["loss"] < 2


def test_the_default_measures() -> None:
    outputs = torch.tensor([[0.1, 0.9], [0.8, 0.2]])
    assert accuracy(outputs, torch.tensor([1, 1])).tolist() == [1, 0]
    assert accuracy(outputs, torch.tensor([[0.2, 0.8], [0.7, 0.3]])).tolist() == [1, 1]
    assert mean_absolute_error(torch.tensor([1.0, 2.0]), torch.tensor([1.5, 0.0])).tolist() == [0.5, 2.0]
    assert mean_absolute_error(torch.zeros(2, 2), torch.tensor([[1.0, 2.0], [0.0, 0.0]])).tolist() == [1.5, 0.0]
