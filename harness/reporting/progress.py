"""The progress bar of a call from Python, in a terminal or a notebook."""

import sys
import time
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from harness.notebook import is_notebook
from harness.reporting.screen import Screen, shown_number
from harness.training.results import EpochResult

DRAW_SECONDS = 0.2  # at least, between two drawings


class Bar(Protocol):
    """A bar that shows a share of a command's work, from 0 to 1."""

    def draw(self, share: float, text: str) -> None: ...
    def close(self) -> None: ...


class NoBar:
    """No bar, if the output goes to a file."""

    def draw(self, share: float, text: str) -> None: ...
    def close(self) -> None: ...


class TerminalBar:
    """One line on stderr, removed at the end."""

    def __init__(self) -> None:
        columns = (BarColumn(), TextColumn("{task.description}", markup=False))
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False)
        self._task = self._progress.add_task("", total=1.0)
        self._progress.start()

    def draw(self, share: float, text: str) -> None:
        self._progress.update(self._task, completed=share, description=text, refresh=True)

    def close(self) -> None:
        self._progress.stop()


class NotebookBar:
    """One line under the cell, redrawn in place."""

    def __init__(self) -> None:
        from IPython.display import HTML, display

        self._html = HTML
        self._handle = display(HTML(""), display_id=True)

    def draw(self, share: float, text: str) -> None:
        self._handle.update(self._html(f'<progress value="{share:.4f}" max="1"></progress> {escape(text)}'))

    def close(self) -> None:
        """Keeps the last drawing under the cell."""


class QuietScreen(Screen):
    """Draws a bar, and keeps its lines in `messages` instead of printing them."""

    def __init__(self, name: str, messages: list[str], bar: Bar, *, trials: int, maximize: bool) -> None:
        super().__init__(Console(quiet=True), ())
        self._name, self._messages, self._bar = name, messages, bar
        self._trials, self._maximize = trials, maximize
        self._shares: dict[str, float] = {}  # of the epochs of each run that is training
        self._ended = 0
        self._best: float | None = None
        self._drawn_at = -DRAW_SECONDS

    def say(self, text: str) -> None:
        self._messages.append(text)

    def started(self, name: str, values: Mapping[str, Any]) -> None:
        self._shares[name] = 0.0

    def epoch(self, name: str, result: EpochResult, epochs: int, changed_from: float) -> None:
        self._shares[name] = (result.epoch + 1) / epochs
        value = result.best_value
        if value is not None and (self._best is None or (value > self._best) == self._maximize):
            self._best = value
        if result.note:
            self.say(f"{name}  note: {result.note}")

    def ended(self, name: str, outcome: str, value: float | None, reason: str | None, reused: int) -> None:
        self._shares.pop(name, None)
        self._ended += 1
        if reason:
            self.say(f"{name}  {outcome}: {reason}")

    def refresh(self) -> None:
        now = time.monotonic()
        if now - self._drawn_at >= DRAW_SECONDS:
            self._drawn_at = now
            self._draw()

    def close(self) -> None:
        self._draw()
        self._bar.close()

    def _draw(self) -> None:
        share = min(1.0, (self._ended + sum(self._shares.values())) / max(self._trials, 1))
        what = f"{self._ended} of {self._trials} runs" if self._trials > 1 else f"{share:.0%}"
        best = "" if self._best is None else f", best {shown_number(self._best)}"
        self._bar.draw(share, f"{self._name}: {what}{best}")


class OpenQuiet:
    """Opens screens that print nothing; their lines are kept in `messages`."""

    def __init__(self, name: str, *, shows_bar: bool | None) -> None:
        self.messages: list[str] = []
        self._name, self._shows_bar = name, shows_bar

    def __call__(
        self, hyperparameters: Sequence[str], *, trials: int = 1, train_images: int = 0, maximize: bool = True
    ) -> QuietScreen:
        bar = open_bar(self._shows_bar)
        return QuietScreen(self._name, self.messages, bar, trials=trials, maximize=maximize)


def open_bar(shows: bool | None) -> Bar:
    """The right bar for this process; `shows` forces a bar, or none."""
    if shows is False:
        return NoBar()
    if is_notebook():
        return NotebookBar()
    return TerminalBar() if shows or sys.stderr.isatty() else NoBar()
