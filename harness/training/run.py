"""One run: walks its path through the tree, trains where the path leaves it, yields one result an epoch."""

import copy
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.settings import IN_EVERY_RECIPE
from harness.training.build import Built, Siblings, calling, rebuild, recipe_of, step_scheduler
from harness.training.checkpoint import build_checkpoint, load_checkpoint
from harness.training.device import seed_all
from harness.training.fits import Unfit
from harness.training.loop import evaluate, train_epoch
from harness.training.origin import Origin
from harness.training.remote import open_tree
from harness.training.results import EpochResult
from harness.training.start import begin_from, read_start
from harness.training.state import Knobs, capture, read_knobs, restore
from harness.training.tree import Node, child_name
from harness.training.writer import Writer, write_checkpoint

WAIT_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class PathEpoch:
    """An epoch of this run's path, with what its checkpoint needs beside the state."""

    node: Node
    scheduler: dict[str, Any] | None
    groups: list[dict[str, Any]]


class Walk:
    """The walk of one run. Iterate `epochs()`, then `finish()`; always `close()`."""

    def __init__(
        self,
        built: Built,
        *,
        run_id: str,
        paths: Path | str,
        budget_bytes: int,
        checkpoints: Path,
        start: Origin | None = None,
        is_demo: bool = False,
    ) -> None:
        self.built, self.run_id, self.checkpoints = built, run_id, checkpoints
        self._is_demo = is_demo
        if built.unsaved:
            budget_bytes = 0  # a state would lack something: who is interrupted begins anew, to the same bits
        self._by_batch = built.scheduler is not None and built.experiment.scheduler_step == "batch"
        self.recipe = recipe_of(built, run_id=run_id)
        self.tree = open_tree(paths, self.recipe, run_id=run_id, budget_bytes=budget_bytes)
        self._start = None if start is None else self._load_start(start)
        if start is not None and self._start is not None:
            self.tree.close()
            self.recipe = recipe_of(built, run_id=run_id, start=start.digest())
            self.tree = open_tree(paths, self.recipe, run_id=run_id, budget_bytes=budget_bytes)
        self.first_epoch = 0
        self._note: str | None = None
        self._steps: list[PathEpoch] = []
        self._best: PathEpoch | None = None
        self._position = self.tree.root  # the epoch after which the model is
        self._rolling: dict[str, str] = {}
        self._written: dict[str, str] = {}
        if self._start is not None:
            self.first_epoch = begin_from(built, self._start)
        self._initial_scheduler = self._scheduler_state()
        self.writer = Writer()

    def epochs(self) -> Iterator[EpochResult]:
        """Yields one result an epoch, reused or trained, until the last one or a loss that is not finite."""
        built, experiment = self.built, self.built.experiment
        siblings = Siblings(built)
        for epoch in range(self.first_epoch, experiment.epochs):
            knobs = read_knobs(built.optimizer)
            name = child_name(self._tip, knobs)
            node = self._find_or_claim(name)
            reused = node is not None
            if node is None:
                self._move_to(len(self._steps))
                node = self._train(name, epoch, knobs)
                self._position = name
            self._follow(node, reused=reused)
            step = PathEpoch(node=node, scheduler=self._scheduler_state(), groups=self._groups())
            self._steps.append(step)
            is_best = self._improves(node)
            if is_best:
                self._best = step
            is_fork = siblings.advance(node.metrics, read_knobs(built.optimizer))
            if not reused:
                self._save(step, is_best=is_best, is_fork=is_fork)
            finite = self._is_finite(node)
            yield self._result(step, knobs, reused=reused, is_finite=finite)
            if not finite:
                return

    def finish(self) -> None:
        """Completes the checkpoints and states of a run that ends here, and waits until they are written."""
        for step in self._steps if self.built.experiment.keep == "all" else ():
            if self._is_due(step.node) and self._is_finite(step.node):
                self._complete(_slot_of(step.node), step)
        for slot, end in {"last": self._steps[-1] if self._steps else None, "best": self._best}.items():
            if end is None or not self._is_finite(end.node):
                continue
            if slot in self._kept_slots():
                self._complete(slot, end)
            self.writer.do(lambda name=end.node.name: self.tree.keep_state(name))  # type: ignore[misc]
        self.writer.flush()

    def close(self) -> None:
        """Ends the writer and gives back what is claimed in the tree."""
        self.writer.close()
        self.tree.close()

    @property
    def _tip(self) -> str:
        return self._steps[-1].node.name if self._steps else self.tree.root

    def _load_start(self, origin: Origin) -> dict[str, Any] | None:
        """The checkpoint to begin with; None where this run's own path, as far as it is known, leads there."""
        start = read_start(origin, self.built)
        knobs, scheduler = read_knobs(self.built.optimizer), self._scheduler_state()
        tip = self.tree.root
        for _ in range(0 if start["epoch"] is None else start["epoch"] + 1):
            node = self.tree.find(child_name(tip, read_knobs(self.built.optimizer)))
            if node is None:
                break
            self._follow(node, reused=True)
            tip = node.name
        self._turn(knobs, scheduler)
        return None if tip == start["node"] else start

    def _follow(self, node: Node, *, reused: bool) -> None:
        """Brings the options of the optimizer and the scheduler to the end of an epoch, known or just trained."""
        built, experiment = self.built, self.built.experiment
        if reused and node.knobs_after is not None:
            _set_knobs(built.optimizer, node.knobs_after)
        if built.scheduler is None:
            return
        if not self._by_batch:
            step_scheduler(built.scheduler, node.metrics, experiment.monitor)
        elif reused:
            for _ in range(built.data.steps(experiment.batch_size)):
                step_scheduler(built.scheduler, node.metrics, experiment.monitor)

    def _turn(self, knobs: Knobs, scheduler: dict[str, Any] | None) -> None:
        """Puts the scheduler and the options of the optimizer back to where they were."""
        if scheduler is not None:
            self.built.scheduler.load_state_dict(copy.deepcopy(scheduler))
        _set_knobs(self.built.optimizer, knobs)

    def _find_or_claim(self, name: str) -> Node | None:
        """The node if it is known, None once this process may train it; waits while another one does."""
        while True:
            node = self.tree.find(name)
            if node is None and self.tree.claim(name):
                node = self.tree.find(name)
                if node is None:
                    return None
                self.tree.release(name)
            if node is not None:
                return node
            time.sleep(WAIT_SECONDS)

    def _move_to(self, end: int) -> None:
        """Brings the model to the end of so many epochs: from the deepest state on, training what lies between."""
        built = self.built
        name = self._steps[end - 1].node.name if end else self.tree.root
        if self._position == name:
            return
        knobs, scheduler = read_knobs(built.optimizer), self._scheduler_state()
        depth = self._load_deepest(end)
        if depth and self._best is not None:  # an earlier walk left these; this one's replace them
            self._rolling = {"last": self._steps[depth - 1].node.name, "best": self._best.node.name}
        for index in range(depth, end):
            node = self._steps[index].node
            _set_knobs(built.optimizer, node.knobs)
            metrics = self._train_metrics(node.epoch)
            if not _same(metrics, node.metrics):
                self._note = f"epoch {node.epoch + 1}, trained again, gave other metrics than it did before"
        self._turn(knobs, scheduler)
        self._position = name

    def _load_deepest(self, end: int) -> int:
        """Puts the deepest state of the path's first `end` epochs into the model; how many of them that covers."""
        for depth in range(end, 0, -1):
            step = self._steps[depth - 1]
            state = self.tree.load_state(step.node.name)
            if state is not None:
                try:
                    restore(self.built.model, self.built.optimizer, state)
                except Unfit:  # damaged, though its checksum is right
                    self.tree.drop_state(step.node.name)
                    continue
                if self._by_batch:
                    self.built.scheduler.load_state_dict(copy.deepcopy(step.scheduler))
                return depth
        rebuild(self.built, is_demo=self._is_demo)
        if self._start is not None:
            restore_from = self._start if self._start["optimizer"] else None
            self.built.model.load_state_dict(self._start["state_dict"])
            if restore_from is not None:
                restore(self.built.model, self.built.optimizer, restore_from)
        if self._by_batch:
            self.built.scheduler.load_state_dict(copy.deepcopy(self._initial_scheduler))
        return 0

    def _train(self, name: str, epoch: int, knobs: Knobs) -> Node:
        started = time.perf_counter()
        metrics = self._train_metrics(epoch)
        knobs_after = read_knobs(self.built.optimizer)
        return Node(
            name=name,
            parent=self._tip,
            epoch=epoch,
            knobs=knobs,
            metrics=metrics,
            epoch_seconds=time.perf_counter() - started,
            run_id=self.run_id,
            knobs_after=None if self._by_batch or knobs_after == knobs else knobs_after,
        )

    def _train_metrics(self, epoch: int) -> dict[str, float]:
        """Trains one epoch from where the model is and validates it. Nothing else enters but the epoch."""
        built, experiment = self.built, self.built.experiment
        common: dict[str, Any] = {
            "measures": built.measures, "device": built.device, "precision": built.precision,
        }  # fmt: skip
        seed_all(experiment.seed, "epoch", epoch)
        with self._no_late_reads(epoch), calling(built.spec, f"training, in epoch {epoch + 1},", exit_code=1):
            batch_scheduler = built.scheduler if self._by_batch else None
            if built.graph is not None and built.graph.reason is None:
                train = built.graph.train_epoch(seed=experiment.seed, epoch=epoch, batch_scheduler=batch_scheduler)
                if built.graph.reason is not None:
                    self._note = f"a step is launched kernel by kernel: {built.graph.reason}"
            else:
                batches = built.data.train_batches(
                    batch_size=experiment.batch_size, seed=experiment.seed, epoch=epoch, device=built.device
                )
                train = train_epoch(
                    built.model, built.loss, built.optimizer, batches, batch_scheduler=batch_scheduler, **common
                )
        if not math.isfinite(train["loss"]):
            validation = dict.fromkeys(train, math.nan)
        else:
            batches = built.data.batches(built.data.validation, batch_size=experiment.batch_size, device=built.device)
            with self._no_late_reads(epoch), calling(built.spec, f"validation, in epoch {epoch + 1},", exit_code=1):
                validation = evaluate(built.model, built.loss, batches, **common)
        return {f"train_{name}": value for name, value in train.items()} | {
            f"val_{name}": value for name, value in validation.items()
        }

    @contextmanager
    def _no_late_reads(self, epoch: int) -> Iterator[None]:
        """Raises `HarnessError` where an epoch reads a value that the recipe does not know to matter."""
        built = self.built
        with built.experiment.recording() as reads:
            yield
        late = reads - built.reads - IN_EVERY_RECIPE - (built.scheduler_reads if self._by_batch else set())
        if late:
            raise HarnessError(
                f"{built.spec.path}: {', '.join(sorted(late))} is read for the first time in epoch {epoch + 1}; "
                "read it in data(), model(), loss() or optimizer(), where its reading is noted."
            )

    def _is_finite(self, node: Node) -> bool:
        watched = ("train_loss", "val_loss", self.built.experiment.objective)
        return all(math.isfinite(node.metrics[name]) for name in watched)

    def _is_due(self, node: Node) -> bool:
        experiment = self.built.experiment
        return node.epoch + 1 == experiment.epochs or (node.epoch + 1) % experiment.checkpoint_every == 0

    def _improves(self, node: Node) -> bool:
        experiment = self.built.experiment
        value = node.metrics[experiment.objective]
        if not self._is_finite(node):
            return False
        if self._best is None:
            return True
        best = self._best.node.metrics[experiment.objective]
        return value > best if self.built.maximize else value < best

    def _save(self, step: PathEpoch, *, is_best: bool, is_fork: bool) -> None:
        """Queues the epoch's checkpoints and states, and last its node: who finds the node finds the state."""
        node = step.node
        is_due = self._is_due(node)
        is_kept_for_all = is_due and self.built.experiment.keep == "all"
        slots = ["best"] * is_best + ["last"] * is_due
        if self._is_finite(node) and (slots or is_fork):
            kept = [slot for slot in slots if slot in self._kept_slots()] + [_slot_of(node)] * is_kept_for_all
            files = [self.checkpoints / f"{slot}.pth.tar" for slot in kept]
            checkpoint = self._checkpoint(step, capture(self.built.model, self.built.optimizer))
            replaced = {self._rolling[slot] for slot in slots if slot in self._rolling}
            self._rolling |= dict.fromkeys(slots, node.name)
            self._written |= dict.fromkeys(kept, node.name)
            stays = is_fork or is_kept_for_all
            self.writer.do(
                lambda: write_checkpoint(checkpoint, files, self.tree, node.name, rolling=bool(slots), kept=stays)
            )
            for name in replaced - set(self._rolling.values()):
                self.writer.do(lambda name=name: self.tree.drop_rolling(name))  # type: ignore[misc]
        if is_fork and self._best is not None:
            best = self._best.node.name
            self.writer.do(lambda: self.tree.keep_state(best))
        self.writer.do(lambda: self.tree.record(node))
        self.writer.do(lambda: self.tree.release(node.name))

    def _complete(self, slot: str, step: PathEpoch) -> None:
        """Writes a checkpoint that this run has not written itself, because its epoch was reused."""
        name = step.node.name
        file = self.checkpoints / f"{slot}.pth.tar"
        if self._written.get(slot) == name or _holds(file, name, self.run_id):
            return
        self.writer.flush()
        state = self.tree.load_state(name)
        is_missing = state is None
        if state is None:
            self._move_to(step.node.epoch - self.first_epoch + 1)
            state = capture(self.built.model, self.built.optimizer)
        checkpoint = self._checkpoint(step, state)
        self.writer.do(lambda: write_checkpoint(checkpoint, [file], self.tree, name, rolling=False, kept=is_missing))

    def _checkpoint(self, step: PathEpoch, state: dict[str, Any]) -> dict[str, Any]:
        optimizer = {"state": state["optimizer"]["state"], "param_groups": step.groups}
        return build_checkpoint(
            {"state_dict": state["state_dict"], "optimizer": optimizer},
            scheduler=step.scheduler,
            epoch=step.node.epoch,
            experiment=self.built.experiment,
            metrics=step.node.metrics,
            spec=self.built.spec,
            run_id=self.run_id,
            node=step.node.name,
        )

    def _result(self, step: PathEpoch, knobs: Knobs, *, reused: bool, is_finite: bool) -> EpochResult:
        node, best = step.node, self._best
        note, self._note = self._note or self.tree.news(), None
        return EpochResult(
            epoch=node.epoch,
            metrics=node.metrics,
            learning_rate=knobs[0]["lr"],
            epoch_seconds=node.epoch_seconds,
            reused=reused,
            trained_by=node.run_id,
            best_epoch=best.node.epoch if best else None,
            best_value=best.node.metrics[self.built.experiment.objective] if best else None,
            is_finite=is_finite,
            note=note,
        )

    def _kept_slots(self) -> tuple[str, ...]:
        keep = self.built.experiment.keep
        return ("best", "last") if keep == "all" else (keep,) if isinstance(keep, str) else tuple(keep)

    def _scheduler_state(self) -> dict[str, Any] | None:
        scheduler = self.built.scheduler
        return None if scheduler is None else copy.deepcopy(scheduler.state_dict())

    def _groups(self) -> list[dict[str, Any]]:
        return copy.deepcopy(self.built.optimizer.state_dict()["param_groups"])


def _set_knobs(optimizer: Any, knobs: Knobs) -> None:
    for group, options in zip(optimizer.param_groups, knobs, strict=True):
        for name, value in options.items():
            if isinstance(group[name], tuple):
                group[name] = tuple(value)
            elif hasattr(group[name], "fill_"):
                group[name].fill_(value)
            else:
                group[name] = value


def _slot_of(node: Node) -> str:
    return f"epoch-{node.epoch + 1:04d}"


def _same(left: dict[str, float], right: dict[str, float]) -> bool:
    return left.keys() == right.keys() and all(
        left[name] == right[name] or (math.isnan(left[name]) and math.isnan(right[name])) for name in left
    )


def _holds(file: Path, name: str, run_id: str) -> bool:
    """Whether an earlier, interrupted walk of this run wrote this checkpoint already."""
    try:
        checkpoint = load_checkpoint(file)
    except HarnessError:  # missing or damaged
        return False
    return bool(checkpoint["node"] == name and checkpoint["run_id"] == run_id)
