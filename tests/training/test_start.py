"""A run that begins with a checkpoint: our own, or of somebody else's loop."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.errors import HarnessError
from harness.training.build import Built
from harness.training.state import same_bits

Write, Walk, Make = Callable[..., Path], Callable[..., Any], Callable[..., Built]

SGD = "optim.SGD(parameters, lr=self.lr, momentum=0.9)"
PLATEAU = "lr_scheduler.ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience)"


def test_a_run_that_had_fewer_epochs_is_continued_exactly(write: Write, walk: Walk, assert_same: Any) -> None:
    spec = write()
    first = walk(spec, epochs=3)
    longer = walk(spec, start=first.checkpoints / "last.pth.tar")
    assert longer.reused == [True] * 3 + [False] * 3
    assert_same(longer, walk(spec, "another"))


@pytest.mark.parametrize("scheduler", (
    PLATEAU,
    "lr_scheduler.StepLR(optimizer, 2, gamma=self.factor)",
    "lr_scheduler.LambdaLR(optimizer, lambda epoch: self.factor ** (epoch // 2))",
    "lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 2)",
    "lr_scheduler.SequentialLR(optimizer, [lr_scheduler.ConstantLR(optimizer, 0.5, 2), "
    "lr_scheduler.StepLR(optimizer, 2)], [2])",
))  # fmt: skip
def test_a_checkpoint_whose_path_is_gone_is_continued_exactly(
    write: Write, walk: Walk, assert_same: Any, scheduler: str
) -> None:
    """In a store of its own, as from a file that somebody sent."""
    spec = write((PLATEAU, scheduler))
    first = walk(spec, epochs=3)
    start = first.checkpoints / "last.pth.tar"
    whole = walk(spec, "another")
    rest = walk(spec, "a third", start=start)
    assert [result.epoch for result in rest.results] == [3, 4, 5]
    assert rest.metrics == whole.metrics[3:] and rest.rates == whole.rates[3:]
    left, right = rest.checkpoint(), whole.checkpoint()
    assert all(same_bits(left[key], right[key]) for key in ("state_dict", "optimizer", "epoch", "rng"))


def test_a_start_with_another_scheduler_begins_at_the_checkpoint(write: Write, walk: Walk) -> None:
    """The checkpoint's epoch is known to the tree, but this run's own path does not lead there."""
    spec = write()
    first = walk(spec, epochs=4, patience=2)
    assert len(set(first.rates)) == 1
    other = walk(spec, "tree", start=first.checkpoints / "last.pth.tar", patience=0)
    own = walk(spec, patience=0)
    assert own.rates[:4] != first.rates, "its own path leaves before"
    assert [result.epoch for result in other.results] == [4, 5]
    assert not any(other.reused)


@pytest.mark.parametrize("stop", (1, 2))
def test_a_started_run_that_was_killed_goes_on(write: Write, walk: Walk, assert_same: Any, stop: int) -> None:
    spec = write()
    start = walk(spec, epochs=3).checkpoints / "last.pth.tar"
    walk(spec, "one", run_id="killed", start=start, stop=stop)
    resumed = walk(spec, "one", run_id="killed", start=start)
    assert resumed.reused == [True] * stop + [False] * (3 - stop)
    assert_same(resumed, walk(spec, "two", start=start))
    lost = walk(spec, "one", start=start, budget_bytes=0)
    assert_same(lost, resumed)


@pytest.mark.parametrize("keys", (
    ("model_state_dict", "optimizer_state_dict"), ("estado_diccionario", "optimizador"), ("model", None),
))  # fmt: skip
def test_a_foreign_checkpoint_gives_its_weights(
    write: Write, walk: Walk, tmp_path: Path, keys: tuple[str, str | None]
) -> None:
    spec = write()
    ours = walk(spec, epochs=3).checkpoint()
    theirs = {keys[0]: ours["state_dict"]} | ({keys[1]: ours["optimizer"]} if keys[1] else {})
    torch.save(theirs, tmp_path / "theirs.pth")
    begun = walk(spec, "other", start=tmp_path / "theirs.pth")
    assert [result.epoch for result in begun.results] == list(range(6)), "no epoch was told: all of them are to come"
    assert begun.metrics != walk(spec, "other").metrics
    assert begun.results[0].learning_rate == 0.1
    again = walk(spec, "other", start=tmp_path / "theirs.pth")
    assert all(again.reused)
    del theirs[keys[0]]
    torch.save(theirs | {keys[0]: {name: value * 0.9 for name, value in ours["state_dict"].items()}},
               tmp_path / "theirs.pth")  # fmt: skip
    assert not any(walk(spec, "other", start=tmp_path / "theirs.pth").reused), "another file is another start"


def test_a_foreign_epoch_counts(write: Write, walk: Walk, tmp_path: Path) -> None:
    spec = write()
    ours = walk(spec, epochs=3).checkpoint()
    torch.save({"model_state_dict": ours["state_dict"], "epoch": 3}, tmp_path / "theirs.pth")
    assert [result.epoch for result in walk(spec, start=tmp_path / "theirs.pth").results] == [4, 5]


def test_weights_of_another_model_are_refused(write: Write, walk: Walk) -> None:
    start = walk(write()).checkpoints / "last.pth.tar"
    with pytest.raises(HarnessError, match=r"does not fit model\(\): size mismatch for 0.weight: .* --except 0$"):
        walk(write(), width=5, start=start, epochs=8)


@pytest.mark.parametrize(("optimizer", "message"), [
    ("optim.Adam(parameters, lr=self.lr / 100)", "is of another kind: it has dampening, momentum, nesterov; "),
    ("optim.SGD([{'params': list(parameters)[:2]}], lr=self.lr)", r"has groups of \[6\] parameters"),
])  # fmt: skip
def test_the_state_of_another_optimizer_is_refused(write: Write, walk: Walk, optimizer: str, message: str) -> None:
    start = walk(write()).checkpoints / "last.pth.tar"
    with pytest.raises(HarnessError, match=message):
        walk(write((SGD, optimizer)), start=start, epochs=8)


def test_a_checkpoint_with_all_its_epochs_says_how_to_ask_for_more(write: Write, walk: Walk) -> None:
    start = walk(write()).checkpoints / "last.pth.tar"
    with pytest.raises(HarnessError, match="has 6 epochs already; say how many in all, such as --epochs 26"):
        walk(write(), start=start)
