"""Runs of small specs, walked in this process as a worker walks them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.spec import load_spec
from harness.training.build import Built, build
from harness.training.data_cache import DataCache
from harness.training.device import make_deterministic
from harness.training.origin import Origin
from harness.training.rehearsal import rehearse
from harness.training.results import EpochResult
from harness.training.run import Walk
from harness.training.state import same_bits

SPEC = '''
"""Batch norm, dropout and augmentation, small enough to train in a moment."""

import torch
from torch import nn, optim
from torch.optim import lr_scheduler

from harness import Experiment, search
from harness.data import tensors


class Net(Experiment):
    epochs = 6
    batch_size = 20
    objective = "val_loss"

    lr: float = search.log_uniform(1e-3, 1.0, points=4, default=1e-1)
    patience: int = search.integer(0, 2, default=0)
    factor: float = search.choice(0.1, 0.5, default=0.1)
    width: int = search.integer(2, 8, default=4)

    def data(self):
        generator = torch.Generator().manual_seed(1)
        inputs = torch.randint(0, 256, (90, 1, 6, 6), generator=generator, dtype=torch.uint8)
        targets = (inputs[:, 0, :3].float().sum((1, 2)) > inputs[:, 0, 3:].float().sum((1, 2))).long()
        targets ^= (torch.rand(90, generator=generator) < 0.2).long()
        return tensors(inputs, targets, validation=30, augment=("crop", "flip", "cutout"))

    def model(self):
        return nn.Sequential(
            nn.Conv2d(1, self.width, 3), nn.BatchNorm2d(self.width), nn.ReLU(),
            nn.Flatten(), nn.Dropout(0.3), nn.Linear(16 * self.width, 2),
        )

    def optimizer(self, parameters):
        return optim.SGD(parameters, lr=self.lr, momentum=0.9)

    def scheduler(self, optimizer):
        return lr_scheduler.ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience)
'''


@dataclass(frozen=True, kw_only=True)
class Walked:
    """What a run told, and what it left."""

    run_id: str
    results: list[EpochResult]
    checkpoints: Path
    run: Walk

    @property
    def metrics(self) -> list[dict[str, float]]:
        return [result.metrics for result in self.results]

    @property
    def rates(self) -> list[float]:
        return [result.learning_rate for result in self.results]

    @property
    def reused(self) -> list[bool]:
        return [result.reused for result in self.results]

    def checkpoint(self, slot: str = "last") -> dict[str, Any]:
        loaded: dict[str, Any] = torch.load(self.checkpoints / f"{slot}.pth.tar", weights_only=True)
        return loaded


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    make_deterministic(1)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes the spec with pieces of its text replaced: `write(("epochs = 6", "epochs = 3"))`."""

    def write(*changes: tuple[str, str], name: str = "net.py", text: str = SPEC) -> Path:
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture
def make() -> Callable[..., Built]:
    """Builds a spec file with some values, and rehearses it."""

    def make(path: Path, *, cache: DataCache | None = None, is_demo: bool = False, **values: Any) -> Built:
        device = torch.device("cpu")
        built = build(load_spec(path), values, device=device, cache=cache or DataCache(), is_demo=is_demo)
        rehearse(built)
        return built

    return make


@pytest.fixture
def walk(tmp_path: Path, make: Callable[..., Built]) -> Callable[..., Walked]:
    """Trains a spec file in a tree of this name; `stop` is how many epochs it lives, and it dies unfinished."""
    count = iter(range(10**6))

    def walk(
        path: Path,
        paths: str = "tree",
        *,
        stop: int | None = None,
        run_id: str | None = None,
        start: Path | Origin | None = None,
        budget_bytes: int = 10**9,
        **values: Any,
    ) -> Walked:
        run_id = run_id or f"run-{next(count)}"
        checkpoints = tmp_path / "checkpoints" / run_id
        run = Walk(
            make(path, **values), run_id=run_id, paths=tmp_path / paths, budget_bytes=budget_bytes,
            checkpoints=checkpoints,
            start=Origin(path=start) if isinstance(start, Path) else start,
        )  # fmt: skip
        results = []
        try:
            epochs = run.epochs()
            for result in epochs:
                results.append(result)
                if len(results) == stop:
                    epochs.close()  # type: ignore[attr-defined]
                    break
            else:
                run.finish()
        finally:
            run.close()
        assert not [result.note for result in results if result.note], "an epoch trained again gave the same"
        return Walked(run_id=run_id, results=results, checkpoints=checkpoints, run=run)

    return walk


@pytest.fixture
def assert_same() -> Callable[..., None]:
    """Two runs left the same, bit for bit."""

    def check(ours: Walked, theirs: Walked, *slots: str, told: bool = True) -> None:
        """`told=False`: not of what is measured beside the training."""
        assert ours.metrics == theirs.metrics
        assert ours.rates == theirs.rates
        for one, other in zip(ours.results, theirs.results, strict=True) if told else ():
            assert (one.diagnostics, one.class_accuracy) == (other.diagnostics, other.class_accuracy)
        for slot in slots or ("last", "best"):
            left, right = ours.checkpoint(slot), theirs.checkpoint(slot)
            assert left.keys() == right.keys()
            for key in ("state_dict", "optimizer", "scheduler", "epoch", "metrics", "rng", "params", "values"):
                assert same_bits(left[key], right[key]), f"{slot}: {key}"

    return check
