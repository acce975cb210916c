"""A step as a graph: the same bits as the loop's, eager with the reason stated where it cannot be one."""

import copy
import gc
import itertools
import random
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from plain_parts import plain_parts
from recording import pretend_graphs
from torch import nn, optim

from harness.data import shapes, tensors
from harness.data.part import Data
from harness.errors import NotCaptured
from harness.experiment import Experiment
from harness.training import graph
from harness.training.device import make_deterministic, seed_all
from harness.training.fused import fuse, keep_rates
from harness.training.graph import StepGraph
from harness.training.loop import train_epoch
from harness.training.measures import accuracy
from harness.training.state import capture, capture_gradients, same_bits
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
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3), nn.Flatten(), nn.Linear(32, 10)
    )
    return nn.Sequential(model, nn.Dropout(0.3)).to(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def data() -> Data:
    """Four full batches and a few more images."""
    make_deterministic(1)
    return shapes(train=278, validation=20, test=20, size=16, augment=("crop", "flip", "cutout"))


def step_graph(model: nn.Module, optimizer: optim.Optimizer, data: Data, device: torch.device) -> StepGraph:
    if not optimizer.param_groups[0]["fused"]:
        fuse_as_on_a_gpu(optimizer, model, device)
    parts = plain_parts(model, optimizer, measures={"accuracy": accuracy})
    return StepGraph(parts, data, device=device, precision="float32", batch_size=64)


def fuse_as_on_a_gpu(optimizer: optim.Optimizer, model: nn.Module, device: torch.device) -> None:
    fuse(optimizer, model, device)
    if device.type == "cpu":
        keep_rates(optimizer, device)


def train(data: Data, device: torch.device, make: Any, *, by_graph: bool) -> tuple[list[dict[str, float]], Any, Any]:
    """Three epochs, the learning rate lower in each."""
    model = network().to(device)
    optimizer = make(model.parameters())
    fuse_as_on_a_gpu(optimizer, model, device)
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


def test_a_change_of_the_learning_rate_captures_nothing_again(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    captures = pretend_graphs(monkeypatch)
    metrics, state, stepper = train(data, CPU, OPTIMIZERS["sgd"], by_graph=True)
    expected, expected_state, _ = train(data, CPU, OPTIMIZERS["sgd"], by_graph=False)
    assert stepper.reason is None and len(captures) == 1
    assert metrics == expected and same_bits(state, expected_state)


def test_what_the_graph_has_built_in_is_captured_again_when_it_changes(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    captures = pretend_graphs(monkeypatch)
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
    captures = pretend_graphs(monkeypatch)
    states = []
    for by_graph in (True, False):
        model = network()
        optimizer = OPTIMIZERS["sgd"](model.parameters())
        fuse_as_on_a_gpu(optimizer, model, CPU)
        scheduler = optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=40)  # turns momentum as well
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
    captures = pretend_graphs(monkeypatch)
    model = network()
    stepper = step_graph(model, optim.SGD(model.parameters(), lr=0.1), data, CPU)
    stepper.train_epoch(seed=0, epoch=0, steps=1)
    assert stepper._totals.count == 64 and not captures, "the first step makes what is made only once"
    stepper.train_epoch(seed=0, epoch=1, steps=2)
    assert stepper._totals.count == 128 and len(captures) == 1


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
            fuse(optimizer, model, CPU)
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
        fuse(optimizer, model, CPU)
        assert not optimizer.param_groups[0].get("fused"), name


@pytest.mark.parametrize(("replaces", "reason"), [
    (lambda made: lambda: None, "a replayed step gives other bits than the step itself"),
    (lambda made: (_ for _ in ()).throw(RuntimeError("operation not permitted\nmore")), "operation not permitted"),
])  # fmt: skip
def test_after_a_capture_that_came_to_nothing_the_process_does_not_go_on(
    data: Data, monkeypatch: pytest.MonkeyPatch, replaces: Any, reason: str
) -> None:
    pretend_graphs(monkeypatch, replaces)
    with pytest.raises(NotCaptured, match=reason) as caught:
        train(data, CPU, OPTIMIZERS["sgd"], by_graph=True)
    assert caught.value.has_begun


class Spec(Experiment):
    """A step with something in it."""

    within: Any = staticmethod(lambda *_: None)

    def step(self, model: Any, loss: Any, optimizer: Any, inputs: Any, targets: Any) -> Any:
        value, outputs = super().step(model, loss, optimizer, inputs, targets)
        self.within(self, model, optimizer, value)
        return value, outputs


COUNTED = {"steps": 0}
HIDDEN = itertools.count()


def count_in(owner: Any, name: str) -> None:
    setattr(owner, name, getattr(owner, name, 0) + 1)


def counting() -> Callable[..., None]:
    steps = 0

    def count(*_: Any) -> None:
        nonlocal steps
        steps += 1

    return count


def skip_every_third(_: Any, model: nn.Module, *__: Any) -> None:
    if next(HIDDEN) % 3 == 0:
        with torch.no_grad():
            next(model.parameters()).mul_(0.5)


def lower(_: Any, __: Any, optimizer: Any, ___: Any) -> None:
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"] * 0.9


ON_THE_HOST: dict[str, tuple[Callable[..., Any], str]] = {
    "Python's generator": (lambda *_: random.random(), "draws from the generator of Python, on the host"),
    "NumPy's generator": (lambda *_: np.random.rand(), "draws from the generator of NumPy, on the host"),
    "a value of the device": (lambda *given: given[3].item(), r"waits for a value of the device \(recording.py, line"),
    "a decision by a value": (lambda _, __, ___, value: value > 1e9 and None, "waits for a value of the device"),
    "a counter in the model": (lambda _, model, *__: count_in(model[1], "steps"), "changes the model.1.steps"),
    "a private counter": (lambda _, model, *__: count_in(model, "_steps"), "changes the model._steps"),
    "an attribute": (lambda self, *_: count_in(self, "steps"), "changes self.steps"),
    "a growing list": (lambda self, *_: self.seen.append(0), "changes the length of self.seen"),
    "a new tensor": (lambda self, *_: setattr(self, "mean", self.mean * 0.9), "changes the memory of self.mean"),
    "a global": (lambda *_: COUNTED.update(steps=COUNTED["steps"] + 1), "changes the global COUNTED.steps"),
    "the learning rate": (lower, "changes the learning rate"),
    "another option": (
        lambda _, __, optimizer, ___: optimizer.param_groups[0].update(weight_decay=random.Random().random()),
        "changes group 0 of the optimizer.weight_decay",
    ),
}  # fmt: skip


def spec_graph(data: Data, within: Callable[..., Any], loss: Any = None) -> StepGraph:
    """The graph of a step with something in it."""
    model, experiment = network(), Spec()
    experiment.seen, experiment.mean = [], torch.zeros(2)  # type: ignore[attr-defined]
    Spec.within = staticmethod(within)
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    fuse_as_on_a_gpu(optimizer, model, CPU)
    parts = plain_parts(model, optimizer, experiment=experiment, loss=loss or nn.CrossEntropyLoss())
    return StepGraph(parts, data, device=CPU, precision="float32", batch_size=64)


@pytest.mark.parametrize("kind", ON_THE_HOST)
def test_what_a_step_does_on_the_host_is_not_captured_and_named(
    data: Data, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    captures = pretend_graphs(monkeypatch)
    within, reason = ON_THE_HOST[kind]
    with pytest.raises(NotCaptured, match=reason) as caught:
        spec_graph(data, within).train_epoch(seed=0, epoch=0)
    assert not captures and not caught.value.has_begun, "nothing was captured: the process may go on"


def test_a_decision_that_nothing_shows_is_found_by_several_replays(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_graphs(monkeypatch)
    with pytest.raises(NotCaptured, match="a replayed step gives other bits"):
        spec_graph(data, skip_every_third).train_epoch(seed=0, epoch=0)


def test_a_counter_in_a_closure_is_named(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_graphs(monkeypatch)
    count, compute = counting(), nn.CrossEntropyLoss()

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        count()
        result: torch.Tensor = compute(outputs, targets)
        return result

    with pytest.raises(NotCaptured, match=r"changes the loss.count.steps"):
        spec_graph(data, lambda *_: None, loss).train_epoch(seed=0, epoch=0)


class Centred(nn.Module):
    """A loss with a buffer that each step changes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(10))

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.centre.lerp_(outputs.detach().mean(0), 0.1)
        return nn.functional.cross_entropy(outputs - self.centre, targets)


class Freezing(Experiment):
    """What begin_epoch() decides: a number, and what is trained; and an average of the weights on `self`."""

    def begin_epoch(self, model: Any, optimizer: Any, epoch: int) -> None:
        self.scale = 1 / (1 + epoch)
        for parameter in model[0].parameters():
            parameter.requires_grad_(epoch != 1)

    def step(self, model: Any, loss: Any, optimizer: Any, inputs: Any, targets: Any) -> Any:
        outputs = model(inputs)
        value = self.scale * loss(outputs, targets)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(self.average.parameters(), model.parameters(), strict=True):  # type: ignore[attr-defined]
                slow.lerp_(fast, 0.1)
        return value, outputs


@pytest.mark.parametrize("steps", [None, 4], ids=["a smaller batch is last", "a replay is last"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_begins_late_or_turns_between_epochs_is_as_in_the_loop(
    data: Data, monkeypatch: pytest.MonkeyPatch, name: str, steps: int | None
) -> None:
    captures = pretend_graphs(monkeypatch)
    states = []
    for by_graph in (True, False):
        model, experiment, loss = network(), Freezing(), Centred()
        model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), model)
        for parameter in model[0].parameters():
            parameter.requires_grad_(False)
        optimizer = OPTIMIZERS[name](model.parameters())
        fuse_as_on_a_gpu(optimizer, model, CPU)
        experiment.average = copy.deepcopy(model)  # type: ignore[attr-defined]
        parts = plain_parts(model, optimizer, experiment=experiment, loss=loss)
        stepper = StepGraph(parts, data, device=CPU, precision="float32", batch_size=64)
        for epoch in (1, 2, 3):
            seed_all(0, "epoch", epoch)
            random.seed(epoch)
            experiment.begin_epoch(model, optimizer, epoch)
            if by_graph:
                stepper.train_epoch(seed=0, epoch=epoch, steps=steps)
            else:
                batches = data.train_batches(batch_size=64, seed=0, epoch=epoch, device=CPU)
                train_epoch(parts, itertools.islice(batches, steps), device=CPU, precision="float32")
        states.append((capture(parts), capture_gradients(parts), random.random(), torch.rand(()), np.random.rand()))
    assert captures and stepper.reason is None
    assert same_bits(*states)


def test_a_graph_that_was_given_up_is_freed_at_once(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    captures = pretend_graphs(monkeypatch)
    model = network()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    stepper = step_graph(model, optimizer, data, CPU)
    stepper.train_epoch(seed=0, epoch=0)
    first = weakref.ref(captures.pop())
    gc.disable()
    try:
        optimizer.param_groups[0]["momentum"] = 0.5
        stepper.train_epoch(seed=0, epoch=1, steps=1)
        assert first() is None
        stepper.train_epoch(seed=0, epoch=1)
        second = weakref.ref(captures.pop())
        parameter = weakref.ref(model[1])
        assert second() is not None
        del stepper, model, optimizer
        assert second() is None and parameter() is None
    finally:
        gc.enable()


def test_a_fused_update_takes_its_rate_from_the_device_and_the_groups_keep_numbers() -> None:
    seen: list[Any] = []
    model = nn.Linear(2, 2)
    groups = [{"params": [model.weight], "lr": 0.1}, {"params": [model.bias], "lr": torch.tensor(0.2)}]
    optimizer = optim.SGD(groups, lr=0.1, fused=True)
    keep_rates(optimizer, CPU)
    optimizer.register_step_pre_hook(lambda one, *_: seen.append([group["lr"] for group in one.param_groups]))
    scheduler = optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for rate in (0.1, 0.05):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        assert seen[-1] == [torch.tensor(rate), torch.tensor(2 * rate)]
        assert [type(group["lr"]) for group in optimizer.param_groups] == [float, torch.Tensor]
        assert optimizer.param_groups[0]["lr"] == rate
        scheduler.step()
    assert seen[0][0] is seen[1][0], "a graph finds it where it was"


class Gathering:
    """A metric that keeps its own state."""

    def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None: ...
    def compute(self) -> float: ...
    def reset(self) -> None: ...


def test_why_a_step_cannot_be_a_graph_is_said(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, model = torch.device("cuda"), nn.Linear(2, 2)
    sgd = plain_parts(model, optim.SGD(model.parameters(), lr=0.1, fused=True))
    few = tensors(torch.zeros(80, 2), torch.arange(80) % 2, validation=0.2)
    gathering = plain_parts(model, sgd.optimizer, measures={"m": Gathering()})
    several = plain_parts(model, [sgd.optimizer, optim.RMSprop(model.parameters())])
    assert graph.why_not(data, sgd, cuda, batch_size=64) is None
    for reason, found in {
        "no graphs on cpu": graph.why_not(data, sgd, CPU, batch_size=64),
        "RMSprop": graph.why_not(data, several, cuda, batch_size=64),
        "metric m keeps its own state": graph.why_not(data, gathering, cuda, batch_size=64),
        "SGD takes no": graph.why_not(data, plain_parts(model, optim.SGD(model.parameters())), cuda, batch_size=64),
        "gradients of the one before": graph.why_not(
            data, plain_parts(model, sgd.optimizer, keeps_gradients=True), cuda, batch_size=64
        ),
        "float16": graph.why_not(data, plain_parts(model, sgd.optimizer, scaler=LossScaler()), cuda, batch_size=64),
        "one full batch": graph.why_not(few, sgd, cuda, batch_size=64),
    }.items():
        assert found is not None and reason in found
