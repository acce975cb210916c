"""One run: it follows its path through the tree, trains the missing epochs, and yields one result for each."""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from harness.errors import FAILED, HarnessError
from harness.settings import IN_EVERY_RECIPE
from harness.training.build import Built
from harness.training.device import seed_all
from harness.training.diagnostics import ClassTally, Movement
from harness.training.loop import evaluate, train_epoch
from harness.training.origin import Origin
from harness.training.recipe import recipe_of
from harness.training.remote import open_tree
from harness.training.results import EpochResult
from harness.training.saving import PathEpoch, Saver, path_epoch
from harness.training.schedulers import Siblings, step_schedulers
from harness.training.start import begin_from, read_start
from harness.training.state import Knobs, read_knobs, restore, set_knobs
from harness.training.tree import Node, child_name
from harness.training.user_code import calling

WAIT_SECONDS = 0.05


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
        generation: int = 0,
        until: int | None = None,
    ) -> None:
        self.built, self.run_id = built, run_id
        self._end = built.experiment.epochs if until is None else min(until, built.experiment.epochs)
        self._siblings: Siblings | None = None
        if not built.proof.resumes:
            budget_bytes = 0  # a state would lack something: an interrupted run starts again, with the same bits
        self._by_batch = built.experiment.scheduler_step == "batch" and bool(built.parts.schedulers)
        self.recipe = recipe_of(built, run_id=run_id, generation=generation)
        self.tree = open_tree(paths, self.recipe, run_id=run_id, budget_bytes=budget_bytes)
        self._start = None if start is None else self._load_start(start)
        if start is not None and self._start is not None:
            self.tree.close()
            self.recipe = recipe_of(built, run_id=run_id, start=start.digest(), generation=generation)
            self.tree = open_tree(paths, self.recipe, run_id=run_id, budget_bytes=budget_bytes)
        self.first_epoch = 0
        self._note: str | None = None
        self._steps: list[PathEpoch] = []
        self._best: PathEpoch | None = None
        self._position = self.tree.root  # epochs that the model has done
        self._is_fresh = True  # the parts are as they were built: only their schedulers moved
        if self._start is not None:
            self.first_epoch = begin_from(built, self._start)
        self.saver = Saver(built, self.tree, run_id=run_id, checkpoints=checkpoints, end=self._end)

    def epochs(self) -> Iterator[EpochResult]:
        """Yields one result an epoch, reused or trained.

        Ends after the last epoch, after epoch `until`, after a loss that is not finite, or by `early_stopping`.
        """
        built = self.built
        siblings = self._siblings = Siblings(built)
        for epoch in range(self.first_epoch, self._end):
            knobs, rates = self._knobs(), built.parts.learning_rates()
            name = child_name(self._tip, knobs)
            node = self._find_or_claim(name)
            reused = node is not None
            if node is None:
                self._move_to(len(self._steps))
                node = self._train(name, epoch, knobs)
                self._position = name
            self._follow(node, reused=reused)
            step = path_epoch(built, node)
            self._steps.append(step)
            if self._improves(step):
                self._best = step
            is_fork = siblings.advance(node.metrics, self._knobs(), knobs_after=node.knobs_after)
            if not reused:
                self.saver.save(step, best=self._best, is_fork=is_fork)
            yield self._result(step, rates, reused=reused)
            if not step.is_finite or self._is_stalled(node):
                return

    def finish(self) -> None:
        """Completes the checkpoints and states of a run that ends or waits here, and waits until they are written."""
        self.saver.finish(self._steps, self._best, reach=self._move_to)

    def shared(self) -> list[tuple[dict[str, Any], int]]:
        """The values of each sibling, and how many epochs it has in common with this run so far."""
        return [] if self._siblings is None else self._siblings.shared()

    def close(self) -> None:
        """Ends the writing and gives back what is claimed in the tree."""
        self.saver.close()
        self.tree.close()

    @property
    def _tip(self) -> str:
        return self._steps[-1].node.name if self._steps else self.tree.root

    def _load_start(self, origin: Origin) -> dict[str, Any] | None:
        """The checkpoint to start from; None if this run's path contains it."""
        start = read_start(origin, self.built)
        tip = self.tree.root
        for _ in range(0 if start["epoch"] is None else start["epoch"] + 1):
            node = self.tree.find(child_name(tip, self._knobs()))
            if node is None:
                break
            self._follow(node, reused=True)
            tip = node.name
        if tip != self.tree.root:
            self.built.renew()
        return None if tip == start["node"] else start

    def _knobs(self) -> Knobs:
        return read_knobs(self.built.parts.optimizers)

    def _follow(self, node: Node, *, reused: bool) -> None:
        """Brings the options of the optimizers and the schedulers to the end of an epoch, known or just trained."""
        built, experiment = self.built, self.built.experiment
        if self._by_batch and reused:
            for _ in range(built.data.steps(experiment.batch_size, epoch_steps=experiment.epoch_steps)):
                step_schedulers(built.parts.schedulers, node.metrics, experiment.monitor)
        if reused and node.knobs_after is not None:
            set_knobs(built.parts.optimizers, node.knobs_after)
        if not self._by_batch:
            step_schedulers(built.parts.schedulers, node.metrics, experiment.monitor)

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
        """Brings the model to the end of so many epochs: loads the deepest state, and trains the epochs after it."""
        name = self._steps[end - 1].node.name if end else self.tree.root
        if self._position == name:
            return
        depth = self._load_deepest(end)
        if depth and self._best is not None:
            self.saver.replace_later(last=self._steps[depth - 1], best=self._best)
        for index in range(depth, end):
            node = self._steps[index].node
            metrics = self._train_metrics(node.epoch)
            if not _same(metrics, node.metrics):
                self._note = f"epoch {node.epoch + 1}, trained again, gave other metrics than it did before"
            self._follow(node, reused=False)
        self._position = name

    def _load_deepest(self, end: int) -> int:
        """Loads the deepest state of the path's first `end` epochs into the model; returns its number of epochs.

        The schedulers are stepped along the path again, as in a process that resumes.
        """
        for depth in range(end, 0, -1):
            name = self._steps[depth - 1].node.name
            state = self.tree.load_state(name)
            if state is None:
                continue
            self._renew(depth)
            try:
                restore(self.built.parts, state)
            except (HarnessError, ValueError, TypeError, KeyError, AttributeError, RuntimeError):
                self._is_fresh = False
                self.tree.drop_state(name)  # damaged, though its checksum is right
                continue
            self._is_fresh = False
            return depth
        self._renew(0)
        return 0

    def _renew(self, depth: int) -> None:
        """Fresh parts, with schedulers and options as they are after `depth` epochs of the path."""
        if self._is_fresh and depth == len(self._steps):
            return
        self.built.renew()
        self._is_fresh = True
        if self._start is not None:
            begin_from(self.built, self._start)
        for step in self._steps[:depth]:
            self._follow(step.node, reused=True)

    def _train(self, name: str, epoch: int, knobs: Knobs) -> Node:
        started = time.perf_counter()
        movement, tally = Movement(self.built.parts), ClassTally(self.built.data.num_classes or 0)
        metrics = self._train_metrics(epoch, seen=tally.add)
        diagnostics = movement.read() if math.isfinite(metrics["train_loss"]) else {}
        knobs_after = self._knobs()
        return Node(
            name=name,
            parent=self._tip,
            epoch=epoch,
            knobs=knobs,
            metrics=metrics,
            epoch_seconds=time.perf_counter() - started,
            run_id=self.run_id,
            knobs_after=None if knobs_after == knobs else knobs_after,
            diagnostics=diagnostics,
            class_accuracy=tally.read(),
        )

    def _train_metrics(
        self, epoch: int, *, seen: Callable[[Any, Tensor], None] = lambda outputs, targets: None
    ) -> dict[str, float]:
        """Trains and validates one epoch from the model's present state. Only that and the epoch's number matter.

        `seen` is called with the outputs and targets of each batch of the validation.
        """
        self._is_fresh = False
        built, experiment, count = self.built, self.built.experiment, len(self.built.parts.groups)
        with self._no_late_reads(epoch), calling(built.spec, f"training, in epoch {epoch + 1},", exit_code=FAILED):
            train, note = train_one(built, epoch, after_step=self._after_step)
        self._note = note or self._note
        if len(built.parts.groups) != count:
            raise HarnessError(
                f"{built.spec.path}: a parameter group was added in epoch {epoch + 1}. Make all groups in optimizer(), "
                "and freeze parameters by requires_grad_(False) in begin_epoch() instead.",
                exit_code=FAILED,
            )
        if not math.isfinite(train["loss"]):
            validation = {name: math.nan for name in ("loss", *built.parts.measures)}
        else:
            batches = built.data.batches(built.data.validation, batch_size=experiment.batch_size, device=built.device)
            what = f"validation, in epoch {epoch + 1},"
            with self._no_late_reads(epoch), calling(built.spec, what, exit_code=FAILED):
                validation = evaluate(built.parts, batches, device=built.device, precision=built.precision, seen=seen)
        return {f"train_{name}": value for name, value in train.items()} | {
            f"val_{name}": value for name, value in validation.items()
        }

    def _after_step(self) -> None:
        for scheduler in self.built.parts.schedulers.values() if self._by_batch else ():
            scheduler.step()

    @contextmanager
    def _no_late_reads(self, epoch: int) -> Iterator[None]:
        """Raises `HarnessError` if an epoch reads a value that is not part of the recipe."""
        built = self.built
        with built.experiment.recording() as reads:
            yield
        late = reads - built.reads - IN_EVERY_RECIPE - (built.scheduler_reads if self._by_batch else set())
        if late:
            raise HarnessError(
                f"{built.spec.path}: {', '.join(sorted(late))} is read for the first time in epoch {epoch + 1}. "
                "Read it in every step or every begin_epoch(), or in data(), model(), loss() or optimizer(): "
                "then it is known before training that the value matters."
            )

    def _is_stalled(self, node: Node) -> bool:
        """Whether `early_stopping` ends the run after this epoch."""
        patience = self.built.experiment.early_stopping
        best = self.first_epoch - 1 if self._best is None else self._best.node.epoch
        return patience is not None and node.epoch - best >= patience

    def _improves(self, step: PathEpoch) -> bool:
        if not step.is_finite:
            return False
        if self._best is None:
            return True
        objective = self.built.experiment.objective
        value, best = step.node.metrics[objective], self._best.node.metrics[objective]
        return value > best if self.built.maximize else value < best

    def _result(self, step: PathEpoch, rates: dict[str, float], *, reused: bool) -> EpochResult:
        node, best = step.node, self._best
        note, self._note = self._note or self.tree.news(), None
        return EpochResult(
            epoch=node.epoch,
            metrics=node.metrics,
            learning_rates=rates,
            epoch_seconds=node.epoch_seconds,
            reused=reused,
            trained_by=node.run_id,
            best_epoch=best.node.epoch if best else None,
            best_value=best.node.metrics[self.built.experiment.objective] if best else None,
            is_finite=step.is_finite,
            note=note,
            diagnostics=node.diagnostics,
            class_accuracy=tuple(node.class_accuracy),
        )


def train_one(
    built: Built, epoch: int, *, after_step: Callable[[], None], steps: int | None = None
) -> tuple[dict[str, float], str | None]:
    """Trains one epoch, or its first `steps`, from where the model is; its metrics, and a note on how, if any."""
    experiment, parts = built.experiment, built.parts
    seed_all(experiment.seed, "epoch", epoch)
    experiment.begin_epoch(parts.model, parts.optimizer, epoch)
    if built.graph is not None and built.graph.reason is None:
        metrics = built.graph.train_epoch(seed=experiment.seed, epoch=epoch, after_step=after_step, steps=steps)
        reason = built.graph.reason
        return metrics, None if reason is None else f"a step is launched kernel by kernel: {reason}"
    batches = built.data.train_batches(
        batch_size=experiment.batch_size, seed=experiment.seed, epoch=epoch, device=built.device,
        epoch_steps=experiment.epoch_steps,
    )  # fmt: skip
    chosen = itertools.islice(batches, steps)
    return train_epoch(parts, chosen, device=built.device, precision=built.precision, after_step=after_step), None


def _same(left: dict[str, float], right: dict[str, float]) -> bool:
    return left.keys() == right.keys() and all(
        left[name] == right[name] or (math.isnan(left[name]) and math.isnan(right[name])) for name in left
    )
