"""States are copies, whole, and comparable bit for bit."""

from typing import Any

import numpy as np
import pytest
import torch
from plain_parts import plain_parts
from torch import nn, optim

from harness.training.fits import Unfit
from harness.training.parts import Parts
from harness.training.state import capture, read_knobs, restore, same_bits


def trained(steps: int = 2) -> Parts:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    parts = plain_parts(model, optim.Adam(model.parameters(), lr=0.1))
    for _ in range(steps):
        step(parts)
    return parts


def step(parts: Parts) -> None:
    parts.optimizer.zero_grad()
    parts.model(torch.ones(5, 3)).square().sum().backward()
    parts.optimizer.step()


def test_a_captured_state_does_not_change_with_the_training() -> None:
    parts = trained()
    state, twin = capture(parts), capture(parts)
    step(parts)
    assert same_bits(state, twin)
    assert not same_bits(state, capture(parts))


def test_a_restored_state_trains_on_as_the_first_time_however_often() -> None:
    parts = trained()
    state, twin = capture(parts), capture(parts)
    step(parts)
    wanted = capture(parts)
    for _ in range(3):
        restore(parts, state)
        assert same_bits(capture(parts), twin)
        step(parts)
        assert same_bits(capture(parts), wanted)
        assert same_bits(state, twin), "the optimizer works on clones"


@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam, optim.AdamW])
@pytest.mark.parametrize("fused", [False, True])
def test_a_state_of_another_layout_in_memory_trains_on_to_the_same_values(kind: type[Any], fused: bool) -> None:
    def convolution(layout: torch.memory_format) -> tuple[nn.Module, optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Conv2d(3, 4, 3).to(memory_format=layout)
        more = {"momentum": 0.9} if kind is optim.SGD else {}
        return model, kind(model.parameters(), lr=0.1, fused=fused, **more)

    def step(model: nn.Module, optimizer: optim.Optimizer, layout: torch.memory_format) -> None:
        for parameter in model.parameters():  # in the layout of the parameter, as backward() gives it
            gradient = torch.arange(parameter.numel(), dtype=torch.float32).reshape(parameter.shape).sin()
            parameter.grad = gradient.contiguous(memory_format=layout) if gradient.dim() == 4 else gradient
        optimizer.step()

    loop = convolution(torch.contiguous_format)
    for _ in range(2):
        step(*loop, torch.contiguous_format)
    ours = convolution(torch.channels_last)
    restore(plain_parts(*ours), capture(plain_parts(*loop)))
    step(*loop, torch.contiguous_format)
    step(*ours, torch.channels_last)
    assert not ours[0].weight.is_contiguous()  # type: ignore[operator]
    after, wanted = (
        capture(plain_parts(*ours)),
        capture(plain_parts(*loop)),
    )  # the last bits depend on where a value stands among others
    torch.testing.assert_close(after["state_dict"], wanted["state_dict"], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(after["optimizer"]["state"], wanted["optimizer"]["state"], rtol=1e-6, atol=1e-6)


def test_the_learning_rate_is_the_schedulers_to_choose() -> None:
    parts = trained()
    state = capture(parts)
    parts.optimizer.param_groups[0]["lr"] = 0.01
    restore(parts, state)
    assert parts.optimizer.param_groups[0]["lr"] == 0.01


def test_knobs_are_plain_options_of_every_group() -> None:
    model = trained().model
    first, second = list(model.parameters())[:2], list(model.parameters())[2:]
    groups = [{"params": first, "lr": torch.tensor(0.5)}, {"params": second, "lr": np.float32(0.25), "betas": (0.8, 1)}]
    knobs = read_knobs({"": optim.AdamW(groups, lr=0.1, weight_decay=0.3)})
    assert [(group["lr"], group["betas"], group["weight_decay"]) for group in knobs] == [
        (0.5, [0.9, 0.999], 0.3), (0.25, [0.8, 1], 0.3),
    ]  # fmt: skip
    assert all("params" not in group and type(group["lr"]) is float for group in knobs)


def test_same_bits_sees_every_difference() -> None:
    state = {"a": [torch.tensor([1.0, float("nan")]), (1, "x")]}
    assert same_bits(state, {"a": [torch.tensor([1.0, float("nan")]), (1, "x")]})
    assert not same_bits(torch.tensor(0.0), torch.tensor(-0.0))
    assert not same_bits(torch.zeros(2), torch.zeros(2, dtype=torch.float64))
    assert not same_bits(torch.zeros(2), torch.zeros(1, 2))
    assert not same_bits({"a": 1}, {"a": 1, "b": 2}) and not same_bits([1], [1, 2])
    assert same_bits(torch.ones(2, 3).t(), torch.ones(3, 2)), "the layout in memory does not count"


@pytest.mark.parametrize(
    ("name", "odd"),
    [
        ("exp_avg", torch.zeros(1)),
        ("exp_avg", torch.zeros(3, 4)),
        ("exp_avg", torch.zeros(4, 3, dtype=torch.int64)),
        ("exp_avg", torch.zeros(4, 3).to_sparse()),
        ("exp_avg", [0.0] * 12),
        ("step", torch.zeros(4, 3)),
    ],
)
def test_a_state_that_does_not_fit_is_refused_before_anything_is_changed(name: str, odd: Any) -> None:
    parts = trained()
    state, before = capture(parts), capture(parts)
    state["optimizer"]["state"][0][name] = odd
    with pytest.raises(Unfit, match=f"{name} of parameter 0"):
        restore(parts, state)
    state = capture(parts)
    state["state_dict"]["0.weight"] = torch.zeros(3, 4)
    with pytest.raises(Unfit, match=r"0\.weight is 3x4 of float32"):
        restore(parts, state)
    assert same_bits(capture(parts), before)
