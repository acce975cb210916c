"""A step as a graph: the same bits as the loop's, eager with the reason stated where it cannot be one."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from plain_parts import plain_parts
from torch import nn, optim

from harness.data import shapes, tensors
from harness.data.part import Data
from harness.models import vgg11
from harness.training import graph
from harness.training.device import make_deterministic, seed_all
from harness.training.graph import StepGraph
from harness.training.loop import train_epoch
from harness.training.measures import accuracy
from harness.training.state import capture, same_bits
from harness.training.step import LossScaler

CPU = torch.device("cpu")
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA")),
]
OPTIMIZERS: dict[str, Callable[[Any], optim.Optimizer]] = {
    "sgd": lambda parameters: optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True),
    "plain": lambda parameters: optim.SGD(parameters, lr=0.05),
    "adamw": lambda parameters: optim.AdamW(parameters, lr=1e-3),
}


def network() -> nn.Module:
    """Batch norm, dropout, and weights in channels_last order."""
    torch.manual_seed(3)
    model = nn.Sequential(*vgg11(classes=10, width=4).children())
    return nn.Sequential(model, nn.Dropout(0.3)).to(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def data() -> Data:
    """Two full batches and a few more images."""
    make_deterministic(1)
    return shapes(train=150, validation=20, test=20, augment=("crop", "flip", "cutout"))


def step_graph(model: nn.Module, optimizer: optim.Optimizer, data: Data, device: torch.device) -> StepGraph:
    parts = plain_parts(model, optimizer, measures={"accuracy": accuracy})
    return StepGraph(parts, data, device=device, precision="float32", batch_size=64)


def train(data: Data, device: torch.device, make: Any, *, by_graph: bool) -> tuple[list[dict[str, float]], Any, Any]:
    """Three epochs, the learning rate lower in each."""
    model = network().to(device)
    optimizer = make(model.parameters())
    if device.type == "cuda":
        graph.fuse(optimizer, model, torch.device(device))
    scheduler = optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.3)
    stepper = step_graph(model, optimizer, data.to(device), device)
    metrics = []
    for epoch in range(3):
        seed_all(0, "epoch", epoch)
        if by_graph:
            metrics.append(stepper.train_epoch(seed=0, epoch=epoch))
        else:
            batches = data.train_batches(batch_size=64, seed=0, epoch=epoch, device=device)
            parts = plain_parts(model, optimizer, measures={"accuracy": accuracy})
            metrics.append(train_epoch(parts, batches, device=device, precision="float32"))
        scheduler.step()
    return metrics, capture(plain_parts(model, optimizer)), stepper


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_epochs_by_graph_have_the_bits_of_the_loop(data: Data, device: str, name: str) -> None:
    metrics, state, stepper = train(data, torch.device(device), OPTIMIZERS[name], by_graph=True)
    expected, expected_state, _ = train(data, torch.device(device), OPTIMIZERS[name], by_graph=False)
    assert metrics == expected and same_bits(state, expected_state)
    assert (stepper.reason is None) == (device == "cuda"), stepper.reason


def pretend(monkeypatch: pytest.MonkeyPatch, replay: Callable[[Callable[[], None]], Callable[[], None]]) -> list[int]:
    """Lets a CPU capture: `replay` makes of a step what is replayed. Counts the captures."""
    captures: list[int] = []

    def graph_of(step: Callable[[], None], device: torch.device, before: Any) -> Callable[[], None]:
        captures.append(1)
        step()  # as when it is warmed up and captured
        before.restore()
        return replay(step)

    monkeypatch.setattr(graph, "why_not", lambda *_, **__: None)
    monkeypatch.setattr(graph, "_graph_of", graph_of)
    return captures


def test_a_change_of_the_learning_rate_captures_nothing_again(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    captures = pretend(monkeypatch, lambda step: step)
    metrics, state, stepper = train(data, CPU, OPTIMIZERS["sgd"], by_graph=True)
    expected, expected_state, _ = train(data, CPU, OPTIMIZERS["sgd"], by_graph=False)
    assert stepper.reason is None and len(captures) == 1
    assert metrics == expected and same_bits(state, expected_state)


def test_what_the_graph_has_built_in_is_captured_again_when_it_changes(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    captures = pretend(monkeypatch, lambda step: step)
    model = network()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    stepper = step_graph(model, optimizer, data, CPU)
    stepper.train_epoch(seed=0, epoch=0)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # other tensors
    stepper.train_epoch(seed=0, epoch=1)
    optimizer.param_groups[0]["momentum"] = 0.5
    stepper.train_epoch(seed=0, epoch=2)
    stepper.train_epoch(seed=0, epoch=3)
    assert len(captures) == 3


def test_options_that_turn_every_step_are_not_captured_every_step(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    captures = pretend(monkeypatch, lambda step: step)
    states = []
    for by_graph in (True, False):
        model = network()
        optimizer = OPTIMIZERS["sgd"](model.parameters())
        scheduler = optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=30)  # turns momentum as well
        parts = plain_parts(model, optimizer)
        seed_all(0)
        if by_graph:
            stepper = StepGraph(parts, data, device=CPU, precision="float32", batch_size=8)
            stepper.train_epoch(seed=0, epoch=0, after_step=scheduler.step)
        else:
            batches = data.train_batches(batch_size=8, seed=0, epoch=0, device=CPU)
            train_epoch(parts, batches, device=CPU, precision="float32", after_step=scheduler.step)
        states.append(capture(parts))
    assert len(captures) == 1 + graph.MOST_TURNS
    assert stepper.reason == "a scheduler turns other options than the learning rate"
    assert same_bits(*states)


def test_the_first_steps_of_an_epoch_are_those_steps(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    captures = pretend(monkeypatch, lambda step: step)
    stepper = step_graph(network(), optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1), data, CPU)
    stepper.train_epoch(seed=0, epoch=0, steps=1)
    assert stepper._totals.count == 64 and len(captures) == 1


class Skipping(nn.Module):
    """A network whose second layer takes part from the second step on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.steps = nn.Linear(3, 3), nn.Linear(3, 3), 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.steps += 1
        outputs: torch.Tensor = self.first(inputs)
        return outputs if self.steps == 1 else self.second(outputs)


def sliced() -> nn.Module:
    """A layer whose weight is a part of a wider one's memory."""
    layer = nn.Linear(3, 3)
    layer.weight = nn.Parameter(nn.Linear(5, 3).weight.detach()[:, :3])
    return layer


@pytest.mark.parametrize(
    ("build", "is_fused"),
    [
        (lambda: nn.Linear(3, 3), True),
        (Skipping, True),
        (sliced, False),
        (lambda: nn.Conv2d(1, 2, 3).to(memory_format=torch.channels_last), True),
    ],
    ids=["linear", "skipping", "sliced", "channels_last"],
)  # fmt: skip
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_fused_update_is_the_update(name: str, build: Callable[[], nn.Module], is_fused: bool) -> None:
    def trained(fuses: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = build()
        optimizer = OPTIMIZERS[name](model.parameters())
        if fuses:
            graph.fuse(optimizer, model, CPU)
            assert bool(optimizer.param_groups[0]["fused"]) == is_fused
        for step in range(4):
            optimizer.zero_grad()
            inputs = torch.randn(1, 3, 3, generator=torch.Generator().manual_seed(step))
            model(inputs).square().sum().backward()
            optimizer.step()
        return dict(model.state_dict())

    torch.testing.assert_close(trained(True), trained(False), rtol=1e-5, atol=1e-6)


def test_what_the_user_chose_and_what_torch_refuses_is_not_fused() -> None:
    embedding, linear = nn.Embedding(4, 2, sparse=True), nn.Linear(2, 2)
    several = {
        "chosen": (linear, optim.SGD(linear.parameters(), lr=0.1, foreach=False)),
        "dampened": (linear, optim.SGD(linear.parameters(), lr=0.1, momentum=0.9, dampening=0.5)),
        "sparse": (embedding, optim.SGD(embedding.parameters(), lr=0.1)),
        "complex": (linear, optim.SGD([nn.Parameter(torch.zeros(2, dtype=torch.complex64))], lr=0.1)),
        "expanded": (linear, optim.SGD([nn.Parameter(torch.zeros(1).expand(3))], lr=0.1)),
        "another kind": (linear, optim.RMSprop(linear.parameters())),
    }
    for name, (model, optimizer) in several.items():
        graph.fuse(optimizer, model, CPU)
        assert not optimizer.param_groups[0].get("fused"), name


@pytest.mark.parametrize(
    ("replay", "reason"),
    [
        (lambda step: lambda: None, "a replayed step gives other bits than the step itself"),
        (lambda step: (_ for _ in ()).throw(RuntimeError("operation not permitted\nmore")), "operation not permitted"),
    ],
)
def test_a_step_that_is_not_the_same_when_replayed_is_trained_eagerly(
    data: Data, monkeypatch: pytest.MonkeyPatch, replay: Any, reason: str
) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    pretend(monkeypatch, replay)
    metrics, state, stepper = train(data, CPU, OPTIMIZERS["sgd"], by_graph=True)
    expected, expected_state, _ = train(data, CPU, OPTIMIZERS["sgd"], by_graph=False)
    assert reason in stepper.reason
    assert metrics == expected and same_bits(state, expected_state)


class Gathering:
    """A metric that keeps its own state."""

    def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None: ...
    def compute(self) -> float: ...
    def reset(self) -> None: ...


def test_why_a_step_cannot_be_a_graph_is_said(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, model = torch.device("cuda"), nn.Linear(2, 2)
    sgd = plain_parts(model, optim.SGD(model.parameters(), lr=0.1))
    few = tensors(torch.zeros(80, 2), torch.arange(80) % 2, validation=0.2)
    gathering = plain_parts(model, sgd.optimizer, measures={"m": Gathering()})
    several = plain_parts(model, [sgd.optimizer, optim.RMSprop(model.parameters())])
    assert graph.why_not(data, sgd, cuda, batch_size=64) is None
    for reason, found in {
        "no graphs on cpu": graph.why_not(data, sgd, CPU, batch_size=64),
        "RMSprop": graph.why_not(data, several, cuda, batch_size=64),
        "metric m keeps its own state": graph.why_not(data, gathering, cuda, batch_size=64),
        "float16": graph.why_not(data, plain_parts(model, sgd.optimizer, scaler=LossScaler()), cuda, batch_size=64),
        "one full batch": graph.why_not(few, sgd, cuda, batch_size=64),
    }.items():
        assert found is not None and reason in found
