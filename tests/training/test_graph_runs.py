"""Whole runs by graph, as on a GPU: rehearsed, trained, interrupted and resumed to the bits of the loop."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from recording import Recording, pretend_graphs
from torch import nn, optim

from harness.errors import NotCaptured
from harness.training import build as building
from harness.training.fused import fuse, keep_rates

ADAMW = ("optim.SGD(parameters, lr=self.lr, momentum=0.9)", "optim.AdamW(parameters, lr=self.lr / 10)")
OWN_STEP = (
    "    def optimizer",
    """    def step(self, model, loss, optimizer, inputs, targets):
        share = torch.rand((), device=inputs.device)
        outputs = model(share * inputs + (1 - share) * inputs.flip(0))
        value = share * loss(outputs, targets) + (1 - share) * loss(outputs, targets.flip(0))
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return value, outputs

    def optimizer""",
)
PLATEAU = "lr_scheduler.ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience)"
BY_BATCH = (
    (PLATEAU, "lr_scheduler.CosineAnnealingLR(optimizer, 20)"),
    (
        "    epochs = 6",
        '    epochs = 6\n    scheduler_step = "batch"',
    ),
)
DECIDES = (
    "    def optimizer",
    """    def step(self, model, loss, optimizer, inputs, targets):
        if random.random() < 0.5:
            inputs = inputs.flip(-1)
        return super().step(model, loss, optimizer, inputs, targets)

    def optimizer""",
)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Recording]:
    """Lets runs on this CPU train by graph. The list gets each capture."""

    def fuse_as_on_a_gpu(optimizer: optim.Optimizer, model: nn.Module, device: torch.device) -> None:
        fuse(optimizer, model, device)
        keep_rates(optimizer, device)

    monkeypatch.setattr(building, "has_graphs", lambda device: True)
    monkeypatch.setattr(building, "fuse", fuse_as_on_a_gpu)
    return pretend_graphs(monkeypatch)


@pytest.mark.parametrize("changes", [(), (ADAMW,), (OWN_STEP,), BY_BATCH], ids=["SGD", "AdamW", "step", "batch"])
def test_a_run_by_graph_is_the_run_by_steps_also_when_it_is_interrupted(
    changes: tuple[tuple[str, str], ...], graphs: list[Recording], monkeypatch: pytest.MonkeyPatch,
    write: Callable[..., Path], walk: Callable[..., Any], assert_same: Callable[..., None],
) -> None:  # fmt: skip
    spec = write(*changes)
    by_graph = walk(spec, "by graph")
    assert by_graph.run.built.step == "CUDA graph", by_graph.run.built.step
    assert len(graphs) >= 2, "one in the rehearsal, one in the run"
    walk(spec, "interrupted", run_id="interrupted", stop=3)
    interrupted = walk(spec, "interrupted", run_id="interrupted")
    assert interrupted.reused[:2] == [True, True]
    assert_same(interrupted, by_graph)
    monkeypatch.setattr(building, "has_graphs", lambda device: False)
    by_steps = walk(spec, "by steps")
    assert by_steps.run.built.step == "eager"
    assert_same(by_steps, by_graph)


def test_a_step_that_decides_on_the_host_is_found_in_the_rehearsal(
    graphs: list[Recording], write: Callable[..., Path], make: Callable[..., Any]
) -> None:
    built = make(write(("import torch\n", "import random\n\nimport torch\n"), DECIDES))
    assert built.proof.repeats and built.proof.resumes
    assert built.proof.no_graph == "the step draws from the generator of Python, on the host"
    assert built.step == f"eager: {built.proof.no_graph}"


def test_a_graph_with_other_bits_than_the_steps_is_not_used(
    monkeypatch: pytest.MonkeyPatch, graphs: list[Recording], write: Callable[..., Path], make: Callable[..., Any]
) -> None:
    pretend_graphs(monkeypatch, replaces=lambda made: lambda: (made.replay(), torch.rand(1))[0])
    with pytest.raises(NotCaptured) as refused:
        make(write())
    assert refused.value.has_begun and str(refused.value)
