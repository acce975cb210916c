"""Repeats training in all the ways in which the harness relies on it: the same bits must come out each time."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import SPECS

from gpu.child import Rows
from gpu.running import Given
from harness.spec import Spec, load_spec
from harness.training.build import Built, DataCache, build
from harness.training.checkpoint import load_checkpoint
from harness.training.device import choose_device, choose_threads, make_deterministic
from harness.training.rehearsal import rehearse
from harness.training.results import Proof
from harness.training.run import Walk
from harness.training.state import same_bits

COMPARED = ("state_dict", "optimizer", "attributes")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run left: the metrics of its epochs, its last checkpoint, and how many epochs it found in the tree."""

    metrics: list[dict[str, float]]
    checkpoint: dict[str, Any]
    reused: int
    step: str  # how a training step was launched, at the end

    def equals(self, other: "Trained") -> bool:
        """Whether all numbers of both are the same bits."""
        left, right = ([run.checkpoint.get(part) for part in COMPARED] for run in (self, other))
        return self.metrics == other.metrics and same_bits(left, right)


class Bench:
    """Trains runs of a spec, each from objects built afresh, as a worker does."""

    def __init__(self, spec: Path, values: dict[str, Any], device: str) -> None:
        make_deterministic(choose_threads(None))
        self.spec: Spec = load_spec(spec)
        self.device = choose_device(device)
        self.values = self.spec.experiment.defaults() | values
        self.cache = DataCache()
        self.proof: Proof = rehearse(self.build()).proof

    def build(self, **values: Any) -> Built:
        proof = getattr(self, "proof", None)
        return build(self.spec, self.values | values, device=self.device, cache=self.cache, proof=proof)

    def train(self, paths: Path, *, is_eager: bool = False, until: int | None = None, **values: Any) -> Trained:
        """Trains a run in a tree of epochs; `is_eager` launches its steps kernel by kernel."""
        built = self.build(**values)
        if is_eager:
            built.graph = None
        folder = Path(tempfile.mkdtemp())
        run = Walk(
            built, run_id=folder.name.ljust(32, "0"), paths=paths, budget_bytes=10**10, checkpoints=folder, until=until
        )
        try:
            results = list(run.epochs())
            run.finish()
        finally:
            run.close()
        return Trained(
            metrics=[result.metrics for result in results],
            checkpoint=load_checkpoint(folder / "last.pth.tar"),
            reused=sum(result.reused for result in results),
            step=built.step,
        )


def check_recipe(given: Given, rows: Rows, *, network: str, kind: str, precision: str) -> None:
    """One recipe: from scratch twice, graph against loop, resumed, and begun by another trial."""
    os.environ["BENCH_WIDTH"], os.environ["BENCH_TRAIN"] = ("2", "192") if given.quick else ("16", "2048")
    values = {"network": network, "kind": kind, "precision": precision}
    check(given, rows, Bench(SPECS / "repeat.py", values, given.device))


def check(given: Given, rows: Rows, bench: Bench) -> None:
    """Adds a row for each way of training that must give the same bits."""
    trees = [Path(tempfile.mkdtemp()) for _ in range(5)]
    whole = bench.train(trees[0])
    rows.add("the step", whole.step)
    rows.add("rehearsal", bench.proof.sentence(), right=bench.proof.repeats and bench.proof.resumes)
    rows.add("from scratch again: same bits", yes(same := bench.train(trees[1]).equals(whole)), right=same)
    if bench.device.type == "cuda":
        loop = bench.train(trees[2], is_eager=True)
        rows.add("CUDA graph and loop: same bits", yes(same := loop.equals(whole)), right=same)
    else:
        rows.add("CUDA graph and loop", "skipped: needs CUDA")
    bench.train(trees[3], until=1)
    resumed = bench.train(trees[3])
    is_right = resumed.equals(whole) and resumed.reused == 1
    rows.add("resumed after epoch 1: same bits", yes(is_right), right=is_right)
    bench.train(trees[4], drop_at=2)
    shared = bench.train(trees[4])
    is_right = shared.equals(whole) and shared.reused == 1
    rows.add("epoch 1 of another trial: same bits", yes(is_right), right=is_right)
    if bench.device.type == "cuda":
        torch.cuda.synchronize(bench.device)


def yes(holds: bool) -> str:
    """A comparison's result as a word."""
    return "yes" if holds else "NO"
