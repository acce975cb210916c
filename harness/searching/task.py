"""A run that the driver trains: its request, its results so far, and the summary on its MLflow page."""

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.files import link_whole
from harness.tracking.store import FAILED_STATUS, SCHEDULED, RunLog
from harness.training.results import EpochResult
from harness.workers.border import Lost
from harness.workers.messages import Prepared, Train

if TYPE_CHECKING:
    from harness.searching.study import OpenTrial


@dataclass(kw_only=True, eq=False)
class Task:
    """A run that the driver trains."""

    name: str
    request: Train
    log: RunLog
    objective: str
    objective_at: str
    trial: "OpenTrial | None" = None  # of a sweep
    renew: Callable[[], tuple[RunLog, Train]] | None = None  # another run of the same trial, and its request
    losses: list[Lost] = field(default_factory=list)
    faults: int = 0  # that the GPU reported
    results: list[EpochResult] = field(default_factory=list)
    prepared: Prepared | None = None
    shared: tuple[tuple[dict[str, Any], int], ...] = ()  # values of siblings, and the epochs that they share with it
    noted: "Callable[[Task, str], None] | None" = None  # called with how the run ended, before the study is told
    shown: int = 0  # epochs that are already on the screen
    outcome: str | None = None  # how it ended
    reason: str | None = None  # why it did not finish
    is_pruned: bool = False
    is_sampled: bool = False
    had_company: bool = False  # other runs were training on this machine at the same time
    is_alone: bool = False  # must train alone: it ran out of memory beside others

    def end(self, status: str, outcome: str, reason: str | None) -> None:
        """Closes the run, with the checkpoints that a worker wrote elsewhere."""
        written, own = self.request.checkpoints, self.log.folder / "checkpoints"
        if written is not None and written != own:
            for file in sorted(written.glob("*.pth.tar")):
                link_whole(file, own / file.name)
        self.log.end(status, outcome, None if status == SCHEDULED else reason)
        self.outcome, self.reason = outcome, reason
        if written is not None and written != own and outcome == "finished":
            shutil.rmtree(written, ignore_errors=True)

    def wait_at(self, until: int | None) -> None:
        """Sets the epoch after which the run waits; None trains it to its end."""
        self.request = dataclasses.replace(self.request, until=until)

    def wake(self) -> None:
        """Makes a waiting run ready to continue."""
        self.log.reopen()
        self.results.clear()
        self.outcome = self.reason = None

    def begin_anew(self, reason: str) -> None:
        """Ends the run and continues as another one, because its epochs were trained with another recipe."""
        assert self.renew is not None
        self.end(FAILED_STATUS, "failed", reason)
        until = self.request.until
        self.log, self.request = self.renew()
        self.wait_at(until)
        self.prepared, self.is_sampled = None, False

    @property
    def value(self) -> float | None:
        """The objective: the best epoch's value, or the last one's."""
        if not self.results:
            return None
        last = self.results[-1]
        return last.best_value if self.objective_at == "best" else last.metrics[self.objective]

    @property
    def reused(self) -> list[EpochResult]:
        """The epochs that other runs had trained."""
        return [result for result in self.results if result.trained_by != self.log.run_id]

    @property
    def changes(self) -> list[tuple[int, float, float]]:
        """Each change of the learning rate: the first epoch with the new one, from, to."""
        pairs = zip(self.results, self.results[1:], strict=False)
        return [(b.epoch, a.learning_rate, b.learning_rate) for a, b in pairs if a.learning_rate != b.learning_rate]


def run_note(task: Task, reason: str | None) -> str:
    """The run's summary in Markdown: its best value, the changes of the learning rate, the epochs of other runs."""
    last, epochs = task.results[-1], task.request.values["epochs"]
    sentences = []
    if last.best_epoch is not None and last.best_value is not None:
        sentences.append(f"**{task.objective} {last.best_value:.4f}** at epoch {last.best_epoch + 1} of {epochs}.")
    if reason is not None:
        sentences.append(f"{reason[:1].upper()}{reason[1:]}.")
    if task.changes:
        steps = ", ".join(f"{rate:g} from epoch {epoch + 1}" for epoch, _, rate in task.changes)
        sentences.append(f"Learning rate {task.results[0].learning_rate:g}, {steps}.")
    else:
        sentences.append(f"Learning rate {last.learning_rate:g} throughout.")
    if task.reused:
        sentences.append(f"{len(task.reused)} of {len(task.results)} epochs were trained by other runs.")
    return " ".join(sentences)
