"""The live view: one row for each running trial, redrawn in place. Lines about ended trials scroll up."""

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.segment import SegmentLines
from rich.table import Table
from rich.text import Text

from harness.reporting.screen import Screen, shown_number, shown_seconds, shown_values
from harness.training.results import EpochResult

NARROW, WIDE = 72, 100  # columns
DRAW_SECONDS = 0.2  # at least, between two drawings
ECHO = 3  # columns that a line leaves free: the "^C" that a terminal echoes must not begin another line
OTHER_LINES = 4  # of the terminal: the heading, how many runs are not shown, the summary, the cursor


@dataclass(kw_only=True)
class Row:
    """A running trial."""

    epochs: int
    values: str  # its hyperparameters, without lr
    rate: str  # lr, as it starts with
    last: EpochResult | None = None
    has_fallen: bool = False  # the learning rate


class LiveScreen(Screen):
    """Draws a few times a second, and only on a terminal: as many running trials as there are lines for."""

    def __init__(
        self, console: Console, hyperparameters: Sequence[str], *, trials: int, train_images: int, maximize: bool
    ) -> None:
        super().__init__(console, hyperparameters)
        self._trials, self._train_images, self._maximize = trials, train_images, maximize
        self._varied = [name for name in hyperparameters if name != "lr"]  # it has a column of its own
        self._rows: dict[str, Row] = {}
        self._ended = self._trained = self._reused = 0
        self._best: tuple[str, float] | None = None
        self._started_at = time.monotonic()
        self._drawn_at = -DRAW_SECONDS
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._live.start()

    def started(self, name: str, values: Mapping[str, Any]) -> None:
        rate = f"{values['lr']:.3g}" if "lr" in values else ""
        self._rows[name] = Row(epochs=values["epochs"], values=shown_values(values, self._varied), rate=rate)
        self.refresh()

    def epoch(self, name: str, result: EpochResult, epochs: int, changed_from: float) -> None:
        row = self._rows[name]
        row.last = result
        row.has_fallen |= result.learning_rate < changed_from
        self._reused += result.reused
        self._trained += not result.reused
        if result.best_value is not None and self._is_better(result.best_value):
            self._best = (name, result.best_value)
        if result.learning_rate != changed_from:
            where = f"at epoch {result.epoch + 1}"
            self.say(f"{name}  learning rate {changed_from:g} -> {result.learning_rate:g} {where}")
        if result.note:
            self.say(f"{name}  note: {result.note}")

    def ended(self, name: str, outcome: str, value: float | None, reason: str | None, reused: int) -> None:
        self._rows.pop(name, None)
        self._ended += outcome != "waiting"
        super().ended(name, outcome, value, reason, reused)

    def refresh(self) -> None:
        now = time.monotonic()
        if self._live.is_started and now - self._drawn_at >= DRAW_SECONDS:
            self._drawn_at = now
            below = [self._cut(self._summary())]
            if (hidden := len(self._rows) - self._height) > 0:
                below.insert(0, Text(f"and {hidden:,} more", style="dim"))
            # Lines, not the table: each line that scrolls up draws again what is below it.
            lines = self.console.render_lines(Group(self._table(), *below), pad=False)
            self._live.update(SegmentLines(lines, new_lines=True), refresh=True)

    def close(self) -> None:
        if self._live.is_started:
            self._live.stop()
            if self._best is not None and (self._rows or self._ended < self._trials):
                self.say(f"best so far, in this command: {self._best[0]} at {shown_number(self._best[1])}")

    def _cut(self, text: str) -> Text:
        """A line, cut before the last columns of the terminal."""
        line = Text(text, style="dim", no_wrap=True)
        line.truncate(self.console.width - ECHO, overflow="ellipsis")
        return line

    def _is_better(self, value: float) -> bool:
        return self._best is None or (value > self._best[1] if self._maximize else value < self._best[1])

    @property
    def _height(self) -> int:
        """The number of running trials that there are lines for."""
        return max(1, self.console.height - OTHER_LINES)

    def _table(self) -> Table:
        cells = [self._cells(name, row) for name, row in itertools.islice(self._rows.items(), self._height)]
        width = self.console.width
        headings = NARROW_HEADINGS if width < NARROW else HEADINGS if width >= WIDE else MIDDLE_HEADINGS
        table = Table(box=None, pad_edge=False, header_style="dim")
        for heading in headings:
            is_text = heading in ("trial", "values")
            # If a line does not fit, only the values are cut.
            shortest = None if heading == "values" else max(len(heading), *(len(str(c[heading])) for c in cells), 0)
            table.add_column(
                heading, justify="left" if is_text else "right", no_wrap=True, overflow="ellipsis", min_width=shortest
            )
        for row in cells:
            table.add_row(*(row[heading] for heading in headings))
        return table

    def _cells(self, name: str, row: Row) -> dict[str, str | Text]:
        if row.last is None:
            waiting: dict[str, str | Text] = dict.fromkeys(HEADINGS, "")
            return waiting | {"trial": name, "epoch": f"-/{row.epochs}", "lr": row.rate, "values": row.values}
        last = row.last
        measure = [value for metric, value in last.metrics.items() if metric.startswith("val_")][-1]
        rate = f"{last.learning_rate:.3g}"
        left = (row.epochs - last.epoch - 1) * last.epoch_seconds
        return {
            "trial": name,
            "epoch": f"{last.epoch + 1}/{row.epochs}",
            "loss": shown_number(last.metrics["train_loss"]),
            "val": shown_number(measure),
            "lr": Text(f"{rate} \u2193", style="yellow") if row.has_fallen else rate,
            "images/s": f"{self._train_images / max(last.epoch_seconds, 1e-9):,.0f}",
            "left": shown_seconds(left),
            "values": row.values,
        }

    def _summary(self) -> str:
        elapsed = time.monotonic() - self._started_at
        parts = [f"{self._ended} of {self._trials} trials" if self._trials else f"{self._ended} trials ended"]
        done = self._ended + sum((row.last.epoch + 1) / row.epochs for row in self._rows.values() if row.last)
        if done and self._trials:
            parts.append(f"about {shown_seconds(elapsed * max(self._trials - done, 0) / done)} left")
        if self._best is not None:
            parts.append(f"best {shown_number(self._best[1])} ({self._best[0]})")
        if self._reused:
            parts.append(f"{self._reused} epoch{'s' * (self._reused > 1)} saved")
        parts.append(f"{shown_seconds(elapsed)} so far")
        return " \u00b7 ".join(parts)


HEADINGS = ("trial", "epoch", "loss", "val", "lr", "left", "images/s", "values")
MIDDLE_HEADINGS = ("trial", "epoch", "loss", "val", "lr", "left", "values")
NARROW_HEADINGS = ("trial", "epoch", "val", "lr", "left", "values")
