"""What a run writes: its checkpoints `best` and `last`, the states of its epochs, and their nodes in the tree."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.training.build import Built
from harness.training.checkpoint import build_checkpoint, load_checkpoint
from harness.training.parts import like
from harness.training.state import capture
from harness.training.tree import Node, Tree
from harness.training.writer import Writer, write_checkpoint


@dataclass(frozen=True, kw_only=True)
class PathEpoch:
    """An epoch of a run's path, with what its checkpoint needs beside the state."""

    node: Node
    scheduler: Any  # the state of the scheduler, or a list or dict of states; None without one
    groups: dict[str, list[dict[str, Any]]]  # of each optimizer
    is_finite: bool  # its losses and its objective


def path_epoch(built: Built, node: Node) -> PathEpoch:
    """The epoch of a node, where the optimizers' options and the schedulers are at its end."""
    parts = built.parts
    states = {name: copy.deepcopy(scheduler.state_dict()) for name, scheduler in parts.schedulers.items()}
    watched = ("train_loss", "val_loss", built.experiment.objective)
    return PathEpoch(
        node=node,
        scheduler=like(parts.scheduler, states) if states else None,
        groups={name: copy.deepcopy(found.state_dict()["param_groups"]) for name, found in parts.optimizers.items()},
        is_finite=all(math.isfinite(node.metrics[name]) for name in watched),
    )


class Saver:
    """Writes in a thread of its own, in order. `end` is how many epochs the run has, or waits after."""

    def __init__(self, built: Built, tree: Tree, *, run_id: str, checkpoints: Path, end: int) -> None:
        self._built, self._tree, self._run_id, self._checkpoints, self._end = built, tree, run_id, checkpoints, end
        self._rolling: dict[str, str] = {}  # the nodes whose states the next ones of their kind replace
        self._written: dict[str, str] = {}  # the node of each checkpoint
        self._writer = Writer()

    def save(self, step: PathEpoch, *, best: PathEpoch | None, is_fork: bool) -> None:
        """Queues the epoch's checkpoints and states, and last its node: who finds the node finds the state."""
        node = step.node
        is_due = self._is_due(node)
        is_kept_for_all = is_due and self._built.experiment.keep == "all"
        slots = ["best"] * (step is best) + ["last"] * (is_due or node.epoch + 1 == self._end)
        if step.is_finite and (slots or is_fork):
            kept = [slot for slot in slots if slot in self._kept_slots()] + [_slot_of(node)] * is_kept_for_all
            files = [self._checkpoints / f"{slot}.pth.tar" for slot in kept]
            checkpoint = self._checkpoint(step, capture(self._built.parts))
            replaced = {self._rolling[slot] for slot in slots if slot in self._rolling}
            self._rolling |= dict.fromkeys(slots, node.name)
            self._written |= dict.fromkeys(kept, node.name)
            stays = is_fork or is_kept_for_all
            self._writer.do(
                lambda: write_checkpoint(checkpoint, files, self._tree, node.name, rolling=bool(slots), kept=stays)
            )
            for name in replaced - set(self._rolling.values()):
                self._writer.do(lambda name=name: self._tree.drop_rolling(name))  # type: ignore[misc]
        if is_fork and best is not None:
            kept_best = best.node.name
            self._writer.do(lambda: self._tree.keep_state(kept_best))
        self._writer.do(lambda: self._tree.record(node))
        self._writer.do(lambda: self._tree.release(node.name))

    def replace_later(self, *, last: PathEpoch, best: PathEpoch) -> None:
        """Says which states an earlier walk of this run left: this one's replace them."""
        self._rolling = {"last": last.node.name, "best": best.node.name}

    def finish(self, steps: Sequence[PathEpoch], best: PathEpoch | None, *, reach: Callable[[int], None]) -> None:
        """Completes the checkpoints and states of a run that ends or waits here, and waits until they are written.

        `reach` brings the model to the end of so many epochs of the path.
        """
        experiment = self._built.experiment
        for place, step in enumerate(steps) if experiment.keep == "all" else ():
            if self._is_due(step.node) and step.is_finite:
                self._complete(_slot_of(step.node), step, place, reach)
        for slot, end in {"last": steps[-1] if steps else None, "best": best}.items():
            if end is None or not end.is_finite:
                continue
            if slot in self._kept_slots():
                self._complete(slot, end, end.node.epoch - steps[0].node.epoch, reach)
            if self._end == experiment.epochs:  # the states of a run that waits are replaced later
                self._writer.do(lambda name=end.node.name: self._tree.keep_state(name))  # type: ignore[misc]
        self._writer.flush()

    def flush(self) -> None:
        """Waits until all is written."""
        self._writer.flush()

    def close(self) -> None:
        """Ends the thread after all that waits to be written."""
        self._writer.close()

    def _complete(self, slot: str, step: PathEpoch, place: int, reach: Callable[[int], None]) -> None:
        """Writes a checkpoint that this run has not written itself, because its epoch was reused."""
        name = step.node.name
        file = self._checkpoints / f"{slot}.pth.tar"
        if self._written.get(slot) == name or _holds(file, name, self._run_id):
            return
        self._writer.flush()
        state = self._tree.load_state(name)
        is_missing = state is None
        if state is None:
            reach(place + 1)
            state = capture(self._built.parts)
        checkpoint = self._checkpoint(step, state)
        self._writer.do(lambda: write_checkpoint(checkpoint, [file], self._tree, name, rolling=False, kept=is_missing))

    def _checkpoint(self, step: PathEpoch, state: dict[str, Any]) -> dict[str, Any]:
        return build_checkpoint(
            state,
            optimizer=self._built.parts.optimizer,
            groups=step.groups,
            scheduler=step.scheduler,
            epoch=step.node.epoch,
            experiment=self._built.experiment,
            metrics=step.node.metrics,
            spec=self._built.spec,
            run_id=self._run_id,
            node=step.node.name,
        )

    def _is_due(self, node: Node) -> bool:
        experiment = self._built.experiment
        return node.epoch + 1 == experiment.epochs or (node.epoch + 1) % experiment.checkpoint_every == 0

    def _kept_slots(self) -> tuple[str, ...]:
        keep = self._built.experiment.keep
        return ("best", "last") if keep == "all" else (keep,) if isinstance(keep, str) else tuple(keep)


def _slot_of(node: Node) -> str:
    return f"epoch-{node.epoch + 1:04d}"


def _holds(file: Path, name: str, run_id: str) -> bool:
    """Whether an earlier, interrupted walk of this run wrote this checkpoint already."""
    try:
        checkpoint = load_checkpoint(file)
    except HarnessError:  # missing or damaged
        return False
    return bool(checkpoint["node"] == name and checkpoint["run_id"] == run_id)
