"""What a run's page says of it in words."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.sweep.driver import Task


def run_note(task: "Task", reason: str | None) -> str:
    """A few sentences, in Markdown: how far it came, where the learning rate changed, what it did not train itself."""
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
