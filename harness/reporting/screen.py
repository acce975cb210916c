"""The screen while runs train: plain lines, and the form of numbers."""

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rich.console import Console

from harness.reporting.terminal import Terminal
from harness.training.results import EpochResult


class Screen:
    """Plain lines: one when a run starts, one for each epoch, one when it ends."""

    def __init__(self, console: Console, hyperparameters: Sequence[str]) -> None:
        self.console = console
        self._hyperparameters = hyperparameters

    def say(self, text: str) -> None:
        """A line of its own."""
        self.console.print(text, markup=False)

    def started(self, name: str, values: Mapping[str, Any]) -> None:
        """A run starts (or starts again)."""
        self.say(f"{name}  {shown_values(values, self._hyperparameters)}")

    def epoch(self, name: str, result: EpochResult, epochs: int, changed_from: float) -> None:
        """An epoch of a run is done, or was known."""
        if result.learning_rate != changed_from:
            self.say(f"{name}  learning rate {changed_from:g} -> {result.learning_rate:g}")
        self.say(f"{name}  {epoch_line(result, epochs)}")
        if result.note:
            self.say(f"{name}  note: {result.note}")

    def ended(self, name: str, outcome: str, value: float | None, reason: str | None, reused: int) -> None:
        """A run has ended."""
        shown = f" at {value:.4g}" if value is not None and outcome in ("finished", "waiting") else ""
        saved = f", {reused} epoch{'s' * (reused > 1)} reused" if reused else ""
        self.say(f"{name}  {outcome}{shown}{saved}" + (f": {reason}" if reason else ""))

    def refresh(self) -> None:
        """Draws the changes."""

    def close(self) -> None:
        """Restores the terminal."""


class OpenScreen(Protocol):
    """Opens the screen of one command."""

    def __call__(
        self, hyperparameters: Sequence[str], *, trials: int = 1, train_images: int = 0, maximize: bool = True
    ) -> Screen: ...


def open_screen(
    hyperparameters: Sequence[str], *, trials: int = 1, train_images: int = 0, maximize: bool = True
) -> Screen:
    """The live view on a terminal; plain lines if the output goes to a file or a pipe."""
    console = Terminal(highlight=False, soft_wrap=not sys.stdout.isatty())
    if not console.is_terminal:
        return Screen(console, hyperparameters)
    from harness.reporting.live import LiveScreen

    return LiveScreen(console, hyperparameters, trials=trials, train_images=train_images, maximize=maximize)


def epoch_line(result: EpochResult, epochs: int) -> str:
    """One epoch on one line: loss and measures, training then validation, learning rate, seconds."""
    parts = [f"epoch {result.epoch + 1:>{len(str(epochs))}}/{epochs}"]
    for part, label in (("train", "train"), ("val", "validation")):
        measured = [
            f"{name.removeprefix(part + '_')} {shown_number(value)}"
            for name, value in result.metrics.items()
            if name.startswith(part + "_")
        ]
        parts.append(f"{label} {' '.join(measured)}")
    parts.append(f"lr {result.learning_rate:g}")
    parts.append(f"{result.epoch_seconds:.2f} s" + (" (reused)" if result.reused else ""))
    return "  ".join(parts)


def shown_values(values: Mapping[str, Any], names: Sequence[str]) -> str:
    """Hyperparameters on one line."""
    return "  ".join(f"{name} {_shown(values[name])}" for name in names)


def shown_number(value: float) -> str:
    """Four decimals, or fewer digits if the number is large."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:.4f}" if abs(value) < 100 else f"{value:.1f}"


def shown_seconds(seconds: float) -> str:
    """A duration in words.

    >>> shown_seconds(7.2), shown_seconds(83), shown_seconds(5400)
    ('7 s', '1 min 23 s', '1 h 30 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def shown_bytes(count: float) -> str:
    """A size in the unit that fits.

    >>> shown_bytes(1_500_000)
    '1.5 MB'
    """
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
