"""The driver: the one process that owns MLflow and the screen, and feeds the workers."""

import csv
import dataclasses
import io
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from harness.errors import FAILED, HarnessError
from harness.files import write_whole
from harness.reporting.screen import Screen
from harness.searching.study import WAITING
from harness.searching.task import Task, run_note
from harness.spec import source_digest
from harness.tracking.store import CLASS_ACCURACY, FAILED_STATUS, FINISHED, KILLED, SCHEDULED, RunLog, Store, finite
from harness.tracking.system import SystemSampler
from harness.tracking.tags import (
    BASE_RECIPE,
    DEVICE,
    LOSSES,
    NODE,
    NOTE,
    OF_SETTINGS,
    PRECISION,
    PRIVATE,
    RECIPE,
    REHEARSAL,
    REUSED,
    REUSED_FROM,
    SOURCE,
    STEP,
    THREADS,
    VERSION,
)
from harness.training.results import EpochResult, structure_of
from harness.workers.border import Lost, Workers, describe_exit, error_of
from harness.workers.messages import Checkpoint, Done, Failed, Prepared, Verdict

SAME_ERRORS = 3  # so many equal errors in a row end a sweep
TRIES = 2  # tries of a run whose worker was killed, or whose GPU failed: most likely the run is the reason
NODE_TRIES = 10  # tries of a run whose node was lost: not the run's fault, but not without end
SAMPLES_AT_ONCE = 32  # of the machine's measures; with few runs they are sent alone, else with a run's next epoch
POLL_SECONDS = 0.25  # between two checks for a stop


class Driver:
    """Runs tasks on workers, as many at once as there are jobs."""

    def __init__(self, store: Store, workers: Workers, screen: Screen, *, idle: list[int] | None = None) -> None:
        self._store, self._workers, self._screen = store, workers, screen
        self._idle = list(idle or [])
        self._active: dict[int, Task] = {}
        self._waiting: list[Task] = []  # lost their workers
        self._errors: list[str] = []
        self._no_graph: dict[Any, str] = {}  # why a step is no CUDA graph, by the values that decide which code runs
        self._sampler = SystemSampler()
        self._is_stopping = False

    def run(self, tasks: Iterator[Task | None], *, jobs: int | None, ends: float | None = None) -> None:
        """Starts a task whenever a worker is free, at most `jobs` at once, until all have ended.

        If `tasks` gives None, the next task depends on a running one. After `ends` (of the monotonic clock) it no
        longer waits for a tracking server before it starts a run.
        """
        exhausted = False
        hearing_seconds = 0.0
        while True:
            began = time.monotonic()
            while (self._waiting or (not exhausted and self._store.takes_runs)) and self._can_start(jobs):
                self.check_stop()
                try:
                    task = self._waiting.pop(0) if self._waiting else next(tasks)
                except StopIteration:
                    exhausted = True
                    continue
                if task is None:
                    break
                self._start(task)
                if time.monotonic() - began > max(POLL_SECONDS, hearing_seconds):
                    break  # else running trials would wait while a thousand others are started
            exhausted |= ends is not None and time.monotonic() > ends and not self._store.takes_runs
            if exhausted and not self._active and not self._waiting:
                return
            touched: set[RunLog] = set()
            heard = self._workers.receive(max(0.0, began + POLL_SECONDS - time.monotonic()))
            self.check_stop()
            self._store.check_place()
            began = time.monotonic()
            for worker, message in heard:
                task = self._active.get(worker)
                if task is None:
                    self._idle = [number for number in self._idle if number != worker]
                    continue
                if self._hear(worker, task, message):
                    touched.discard(task.log)
                else:
                    touched.add(task.log)
            if self._sampler.is_due:
                for task in self._active.values():
                    self._sample(task)
                    if len(self._active) <= SAMPLES_AT_ONCE:
                        touched.add(task.log)
            for log in touched:
                log.send()
            hearing_seconds = time.monotonic() - began
            self._store.retry()
            self._screen.refresh()

    def stop(self) -> None:
        """Makes `run` raise `KeyboardInterrupt` within a fraction of a second, never during a write to the store."""
        self._is_stopping = True

    def interrupt(self) -> None:
        """Stops at once. What was trained is on the disk; the runs are marked as interrupted."""
        self._workers.kill_all()
        for task in [*self._active.values(), *self._waiting]:
            with suppress(Exception):  # another one is raised already: last messages are sent if it is possible
                task.end(KILLED, "interrupted", "stopped; the same command goes on")

    def check_stop(self) -> None:
        """Raises `KeyboardInterrupt` once `stop` was called."""
        if self._is_stopping:
            raise KeyboardInterrupt

    def _can_start(self, jobs: int | None) -> bool:
        if self._active and any(task.is_alone for task in [*self._active.values(), *self._waiting[:1]]):
            return False
        return (jobs is None or len(self._active) < jobs) and (bool(self._idle) or self._workers.has_room())

    def _start(self, task: Task) -> None:
        worker = self._idle.pop() if self._idle else self._workers.start()
        self._active[worker] = task
        if (reason := self._no_graph.get(_structure(task))) is not None:
            task.request = dataclasses.replace(task.request, no_graph=reason)
        place = self._workers.place(worker)
        mates = [other for number, other in self._active.items() if self._workers.place(number) == place]
        for mate in mates:
            mate.had_company |= len(mates) > 1
        self._workers.send(worker, task.request)
        self._screen.started(task.name, task.request.values)
        if place is not None:
            task.log.add_tags({NODE: place})
            self._screen.say(f"{task.name} is on {place}")

    def _hear(self, worker: int, task: Task, message: Any) -> bool:
        """Handles a message; returns whether the task has ended."""
        match message:
            case Prepared():
                self._prepare(task, message)
            case EpochResult():
                self._take_epoch(worker, task, message)
            case Checkpoint():
                write_whole(task.log.folder / "checkpoints" / message.name, message.content)
            case Done():
                self._release(worker)
                self._finish(task, message)
                return True
            case Failed(kind="edited" | "machine"):  # no trial's fault: none is marked as failed
                raise HarnessError(message.message, exit_code=FAILED)
            case Failed():
                is_here = self._workers.place(worker) is None  # on a cluster, the others need not stop for one trial
                self._release(worker, replace=message.kind in ("memory", "device", "graph"))
                if message.kind == "memory" and task.had_company:
                    self._screen.say(
                        f"{task.name}: out of memory beside other trials; tried again{', alone' * is_here}"
                    )
                    task.is_alone, task.had_company = is_here, False
                    self._wait(task)
                    return False
                if message.kind == "device" and task.faults + 1 < TRIES:
                    self._screen.say(f"{task.name}: {message.message}; tried again in a new process")
                    task.faults += 1
                    self._wait(task)
                    return False
                if message.kind == "graph" and task.request.no_graph is None:
                    self._screen.say(f"{task.name}: no CUDA graph ({message.message}); tried again kernel by kernel")
                    self._no_graph[_structure(task)] = message.message
                    self._wait(task)
                    return False
                if message.kind == "recipe" and task.renew is not None:
                    self._screen.say(f"{task.name}: {message.message}; it starts again, as another run")
                    task.begin_anew(message.message)
                    self._wait(task)
                    return False
                self._fail(task, message)
                return True
            case Lost():
                del self._active[worker]
                return self._lose(task, message)
            case _:
                raise AssertionError(f"{task.name} was sent {message!r}")
        return False

    def _lose(self, task: Task, lost: Lost) -> bool:
        """Handles the loss of a run's worker; returns whether the run has ended, because this happened too often."""
        task.losses.append(lost)
        alike = [loss for loss in task.losses if loss.is_node == lost.is_node]
        if len(alike) < (NODE_TRIES if lost.is_node else TRIES):
            self._screen.say(f"{task.name}: {_loss(lost)}; tried again, from its last state")
            task.log.add_tags({LOSSES: "; ".join(map(_loss, task.losses))})
            self._wait(task)
            return False
        why = "nodes are lost too often" if lost.is_node else "the machine may lack memory"
        what = f"its node was lost {NODE_TRIES} times" if lost.is_node else f"its worker was killed {TRIES} times"
        self._fail(task, Failed(kind="lost", message=f"{what} ({lost.place or describe_exit(lost)}); {why}"))
        return True

    def _wait(self, task: Task) -> None:
        """Puts a run back: it starts again from its last state when there is room."""
        task.results.clear()
        self._waiting.append(task)

    def _release(self, worker: int, *, replace: bool = False) -> None:
        del self._active[worker]
        if replace:
            self._workers.stop(worker)
        else:
            self._idle.append(worker)

    def _prepare(self, task: Task, prepared: Prepared) -> None:
        log, values = task.log, task.request.values
        task.prepared = prepared
        # After the loss of its worker it continues if the numbers are the same there; else it starts again.
        task.request = dataclasses.replace(task.request, expected_recipe=prepared.recipe_digest)
        log.add_tags(
            {
                RECIPE: prepared.recipe_digest,
                BASE_RECIPE: prepared.base_digest,
                DEVICE: prepared.device,
                PRECISION: prepared.precision,
                STEP: prepared.step,
                THREADS: prepared.threads,
                PRIVATE: prepared.private or "no",
                SOURCE: source_digest(prepared.sources),
                REHEARSAL: prepared.rehearsal,
                **{tag: values[name] for name, tag in OF_SETTINGS.items()},
                **{f"{VERSION}{name}": version for name, version in prepared.versions.items()},
            }
        )
        log.log_dataset(prepared.data_name, prepared.data_digest, prepared.data_description)
        log.write_text("model_summary.txt", prepared.summary)
        for path, text in prepared.sources.items():
            log.write_text(f"spec/{path}", text)

    def _take_epoch(self, worker: int, task: Task, result: EpochResult) -> None:
        before = task.results[-1].learning_rate if task.results else result.learning_rate
        task.results.append(result)
        # MLflow's pages compare runs by the metrics that were logged first.
        first = {task.objective: result.metrics[task.objective]}
        metrics = first | result.metrics | result.learning_rates | result.diagnostics
        metrics |= {"epoch_seconds": result.epoch_seconds}
        task.log.add_metrics(finite(metrics), result.epoch)
        goes_on = True
        if task.trial is not None and result.is_finite:
            goes_on = task.trial.report(result.epoch, result.metrics[task.objective])
        if task.request.awaits_verdict:
            task.is_pruned = not goes_on
            self._workers.send(worker, Verdict(goes_on=goes_on))
        if result.epoch >= task.shown:
            task.shown = result.epoch + 1
            self._screen.epoch(task.name, result, task.request.values["epochs"], changed_from=before)

    def _sample(self, task: Task) -> None:
        """The machine's measures (CPU, memory, GPU), at the run's second."""
        task.is_sampled = True
        seconds = time.time() - task.log.run.info.start_time / 1000
        task.log.add_metrics(self._sampler.sample(), round(seconds))

    def _finish(self, task: Task, done: Done) -> None:
        log, last = task.log, task.results[-1]
        is_complete = last.epoch + 1 == task.request.values["epochs"]
        if done.is_diverged:
            outcome, reason = "diverged", f"the loss was not finite in epoch {last.epoch + 1}"
        elif task.is_pruned and not is_complete:
            outcome, reason = "pruned", f"stopped after epoch {last.epoch + 1}"
        elif last.epoch + 1 == task.request.until and not is_complete:
            outcome, reason = WAITING, f"stopped after epoch {last.epoch + 1} of {task.request.values['epochs']}"
        else:
            outcome, reason = "finished", None
        log.write_text("learning_rate_changes.csv", _table([("epoch", "from", "to"), *task.changes]))
        measured = [(result.epoch + 1, *result.class_accuracy) for result in task.results if result.class_accuracy]
        if measured and task.prepared is not None:
            log.write_text(CLASS_ACCURACY, _table([("epoch", *task.prepared.classes), *measured]))
        final: dict[str, float] = {"reused_epochs": len(task.reused)}
        if last.best_epoch is not None and last.best_value is not None:
            final |= {"best_epoch": last.best_epoch, f"best_{task.objective}": last.best_value}
        if outcome in ("finished", WAITING) and task.value is not None and math.isfinite(task.value):
            final["objective"] = task.value
        log.add_metrics(final, last.epoch)
        if not task.is_sampled:
            self._sample(task)
        trained_by = list(dict.fromkeys(result.trained_by for result in task.reused))
        part = {0: "none", len(task.results): "all"}.get(len(task.reused), "some")
        log.add_tags(
            {
                REUSED: part,
                REUSED_FROM: ", ".join(trained_by) or "nothing",
                NOTE: run_note(task, reason),
            }
        )
        status = {"finished": FINISHED, "pruned": KILLED, "diverged": FAILED_STATUS, WAITING: SCHEDULED}[outcome]
        task.end(status, outcome, reason)
        task.shared = done.shared
        if task.noted is not None:
            task.noted(task, outcome)
        if task.trial is not None:
            saved = sum(result.epoch_seconds for result in task.reused)
            details = {
                "epochs": len(task.results),
                "reused_epochs": len(task.reused),
                "saved_seconds": saved,
                "outcome": outcome,
            }
            task.trial.end(outcome, task.value, details)
        self._errors.clear()
        self._screen.ended(task.name, outcome, task.value, reason, reused=len(task.reused))

    def _fail(self, task: Task, failed: Failed) -> None:
        reason = failed.message
        if failed.kind == "memory":
            batch_size = task.request.values["batch_size"]
            reason = f"out of memory with batch_size {batch_size}: {failed.message}"
        if failed.trace:
            task.log.write_text("traceback.txt", failed.trace)
        task.end(FAILED_STATUS, "failed", reason)
        if task.noted is not None:
            task.noted(task, "failed")
        if task.trial is not None:
            task.trial.end("failed", None, {"reason": reason, "outcome": "failed"})
        self._screen.ended(task.name, "failed", None, reason, reused=0)
        if failed.kind in ("recipe", "lost"):
            return
        failed = dataclasses.replace(failed, exit_code=FAILED)  # the spec has passed the preflight
        if task.trial is None:
            raise error_of(failed, reason)
        self._errors.append(_kind_of(failed))
        if self._errors[-SAME_ERRORS:] == [self._errors[-1]] * SAME_ERRORS:
            raise error_of(failed, f"{SAME_ERRORS} trials in a row ended with the same error: {reason}")


def _structure(task: Task) -> Any:
    """The values of a run that decide which code its steps run, as far as the preflight knows them."""
    proof = task.request.proof
    return None if proof is None else structure_of(task.request.values, {name for name, _ in proof.structure})


def _kind_of(failed: Failed) -> str:
    """Two errors are the same if their kind and the last line of their traceback are."""
    return failed.kind + (failed.trace.strip().splitlines()[-1] if failed.trace else failed.message)


def _loss(lost: Lost) -> str:
    what = "its node was lost" if lost.is_node else "its worker was killed"
    return f"{what} ({lost.place or describe_exit(lost)})"


def _table(rows: Sequence[Sequence[Any]]) -> str:
    """Rows as CSV."""
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(rows)
    return table.getvalue()
