"""Gradient norm, size of the updates and accuracy of each class: right, the same after a resume, and no bit changed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn, optim

from harness.experiment import Experiment
from harness.training import run
from harness.training.diagnostics import ClassTally, Movement
from harness.training.parts import Parts
from harness.training.recipe import digest_of
from harness.training.tree import read_node

WalkIt = Callable[..., Any]


def parts_of(model: nn.Module) -> Parts:
    optimizer = optim.SGD(model.parameters(), lr=0.5)
    return Parts(experiment=Experiment(), model=model, loss=None, optimizer=optimizer, scheduler=None, measures={})


def test_the_last_gradient_and_the_change_of_the_weights_are_measured() -> None:
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 0.0]]))
        model.bias.fill_(4.0)
    parts = parts_of(model)
    movement = Movement(parts)
    model(torch.tensor([[2.0, 4.0]])).sum().backward()
    parts.optimizer.step()
    gradient = (4 + 16 + 1) ** 0.5
    assert movement.read() == pytest.approx({"gradient_norm": gradient, "update_size": 0.5 * gradient / 5})
    model.zero_grad()
    assert movement.read().keys() == {"update_size"}, "a step that leaves no gradients has none to measure"


def test_a_network_that_is_large_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.training.diagnostics.MOST_VALUES", 2)
    model = nn.Linear(2, 1)
    movement = Movement(parts_of(model))
    model(torch.ones(1, 2)).sum().backward()
    assert movement.read().keys() == {"gradient_norm"}


def test_each_class_has_its_own_accuracy() -> None:
    tally = ClassTally(3)
    tally.add(torch.tensor([[9.0, 0, 0], [0, 9, 0]]), torch.tensor([0, 0]))
    tally.add(torch.tensor([[9.0, 0, 0]]), torch.tensor([2]))
    assert tally.read() == [0.5, None, 0.0]


@pytest.mark.parametrize("outputs", [(torch.zeros(2, 3),), torch.zeros(2, 4), torch.zeros(2, 3, 4, 4), None])
def test_outputs_that_are_no_scores_of_these_classes_are_left_out(outputs: Any) -> None:
    tally = ClassTally(3)
    tally.add(outputs, torch.tensor([0, 1]))
    assert tally.read() == []


def test_not_a_bit_of_the_training_depends_on_what_is_measured_beside_it(
    write: Any, walk: WalkIt, assert_same: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = write()
    measured = walk(spec, "tree")
    assert all(result.diagnostics["gradient_norm"] > 0 for result in measured.results)
    assert all(0 < result.diagnostics["update_size"] < 1 for result in measured.results)
    shares = [sum(result.class_accuracy) / 2 for result in measured.results]
    assert shares != [result.metrics["val_accuracy"] for result in measured.results], "classes are not equally large"
    monkeypatch.setattr(run, "Movement", lambda parts: type("None", (), {"read": dict}))
    monkeypatch.setattr(run, "ClassTally", lambda classes: type("None", (), {"read": list, "add": lambda *_: None}))
    bare = walk(spec, "bare")
    assert not any(result.diagnostics or result.class_accuracy for result in bare.results)
    monkeypatch.undo()
    assert_same(walk(spec, "bare", run_id="bare"), measured, told=False)


def test_epochs_that_were_stored_without_it_are_reused(write: Any, walk: WalkIt, tmp_path: Path) -> None:
    spec = write()
    walk(spec)
    for path in (tmp_path / "tree").glob("*/????????????????.json"):
        node = read_node(path.read_bytes(), path.stem)
        assert node is not None
        record = {key: value for key, value in vars(node).items() if key not in ("diagnostics", "class_accuracy")}
        path.write_text(json.dumps(record | {"checksum": digest_of(record)}))
    again = walk(spec)
    assert all(again.reused) and not any(result.diagnostics for result in again.results)
