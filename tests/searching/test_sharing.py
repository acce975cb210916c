"""What the tree gives is what training from scratch gives, whatever happens to its files."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.training.results import EpochResult
from harness.training.state import same_bits
from harness.training.tree import Tree
from harness.workers.messages import Train
from harness.workers.worker import Worker

SPEC = '''
"""Batch norm, dropout and augmentation, small enough to train in a moment."""

from torch import nn, optim

from harness import Experiment, search
from harness.data import shapes


class Full(Experiment):
    epochs = 10
    batch_size = 50
    checkpoint_every = 3

    lr: float = search.log_uniform(1e-2, 1.0, points=3, default=1e-1)
    patience: int = search.integer(0, 6, default=1)
    factor: float = search.choice(0.1, 0.2, 0.3, 0.5, 0.7, default=0.1)

    def data(self):
        return shapes(train=200, validation=100, test=10, size=12, augment=("crop", "flip", "cutout"))

    def model(self):
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Dropout(0.3), nn.Linear(100, 10),
        )

    def optimizer(self, parameters):
        return optim.SGD(parameters, lr=self.lr, momentum=0.9, weight_decay=1e-3)

    def scheduler(self, optimizer):
        return optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience)
'''


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Trains one run in this process, as a worker does, and gives what it told and its final checkpoint."""
    path = tmp_path / "full.py"
    path.write_text(SPEC)
    worker = Worker()
    count = iter(range(10**6))

    def run(paths: str, *, budget_bytes: int = 10**9, **values: Any) -> dict[str, Any]:
        checkpoints = tmp_path / f"checkpoints-{next(count)}"
        defaults = {"epochs": 10, "lr": 0.1, "patience": 1, "factor": 0.1}
        request = Train(
            spec=path, values=defaults | values, run_id=checkpoints.name, device="cpu", is_demo=False,
            paths=tmp_path / paths, budget_bytes=budget_bytes, checkpoints=checkpoints,
        )  # fmt: skip
        told: list[Any] = []
        worker.serve(request, told.append, lambda: None)
        results = [message for message in told if isinstance(message, EpochResult)]
        assert len(results) == request.values["epochs"], told[-1]
        return {
            "metrics": [(result.metrics, result.learning_rate) for result in results],
            "reused": sum(result.reused for result in results),
            "notes": [result.note for result in results if result.note],
            "last": torch.load(checkpoints / "last.pth.tar", weights_only=True),
            "best": torch.load(checkpoints / "best.pth.tar", weights_only=True),
        }

    return run


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours["metrics"] == theirs["metrics"]
    assert not ours["notes"], "an epoch that was trained again gave the same"
    for name in ("last", "best"):
        for key in ("state_dict", "optimizer", "scheduler", "epoch", "metrics", "rng", "params"):
            assert same_bits(ours[name][key], theirs[name][key]), f"{name}: {key}"


@pytest.mark.slow
def test_thirty_pairs_of_patience_and_factor_equal_training_from_scratch(train: Callable[..., Any]) -> None:
    pairs = [(patience, factor) for patience in range(7) for factor in (0.1, 0.2, 0.3, 0.5, 0.7)]
    random.Random(3).shuffle(pairs)
    trained, rates = 0, set()
    for number, (patience, factor) in enumerate(pairs[:32]):
        shared = train("shared", patience=patience, factor=factor)
        alone = train(f"alone-{number}", patience=patience, factor=factor)
        assert alone["reused"] == 0
        assert_same(shared, alone)
        trained += 10 - shared["reused"]
        rates.add(tuple(rate for _, rate in shared["metrics"]))
    assert len(rates) > 15, "the pairs took different paths"
    assert trained < 0.7 * 320, "and shared much of them"


def states(paths: Path) -> list[Path]:
    return sorted(paths.glob("*/states/*"))


def damage(content: bytes, chosen: random.Random) -> bytes:
    """One bit turned, or the end cut off, at a random place."""
    where = chosen.randrange(len(content))
    if chosen.random() < 0.5:
        return content[:where]
    return content[:where] + bytes([content[where] ^ 1 << chosen.randrange(8)]) + content[where + 1 :]


@pytest.mark.slow
def test_a_hundred_damaged_states_are_each_noticed_and_none_changes_a_result(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    chosen = random.Random(5)
    wanted = train("scratch", patience=0, factor=0.5)
    for patience, factor in ((6, 0.1), (2, 0.2), (0, 0.5)):
        train("tree", patience=patience, factor=factor)
    kept = {file: file.read_bytes() for file in states(tmp_path / "tree")}
    assert len(kept) >= 5
    (folder,) = {file.parent.parent for file in kept}
    tree = Tree(folder.parent, FolderOf(folder.name), budget_bytes=10**9)  # type: ignore[arg-type]
    for number in range(100):
        file = chosen.choice(list(kept))
        file.write_bytes(damage(kept[file], chosen))
        assert tree.load_state(file.name.partition("-")[0]) is None
        assert not file.exists(), "it was dropped"
        if number % 20 == 0:  # all of them at once, and the epochs after the second one forgotten
            for each, content in kept.items():
                each.write_bytes(damage(content, chosen))
            for record in folder.glob("*.json"):
                if record.name != "recipe.json" and json.loads(record.read_text())["epoch"] >= 2:
                    record.unlink()
            assert_same(train("tree", patience=0, factor=0.5), wanted)
            for written in set(states(tmp_path / "tree")) - set(kept):
                written.unlink()
        for each, content in kept.items():
            each.write_bytes(content)
    tree.close()


class FolderOf:
    """Stands for the recipe whose folder is known by name."""

    def __init__(self, digest: str) -> None:
        self.digest = digest


def test_the_disk_budget_holds_and_changes_no_result(train: Callable[..., Any], tmp_path: Path) -> None:
    pairs = [(patience, factor) for patience in (0, 1, 2, 4) for factor in (0.1, 0.5)]
    roomy = [train("roomy", patience=patience, factor=factor) for patience, factor in pairs]
    whole = sum(file.stat().st_size for file in states(tmp_path / "roomy"))
    budget = whole // 10
    for (patience, factor), wanted in zip(pairs, roomy, strict=True):
        assert_same(train("tight", budget_bytes=budget, patience=patience, factor=factor), wanted)
        assert 0 < sum(file.stat().st_size for file in states(tmp_path / "tight")) <= budget
