"""Runs as tables and lines of text."""

import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len

from harness.reporting.terminal import Terminal
from harness.tracking.runs import RunRecord

if TYPE_CHECKING:
    from harness.results.reload import Verification

LAST_METRICS = ("val_loss", "val_accuracy", "val_mean_absolute_error")
GAP = 2  # spaces between columns


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the table of runs. On a narrow screen the column of the highest `rank` is left out first; 0 stays."""

    heading: str
    cells: list[str]
    rank: int
    is_text: bool = False

    @cached_property
    def width(self) -> int:
        """The width on a screen in characters, with the gap after it."""
        return max(cell_len(text) for text in (self.heading, *self.cells)) + GAP

    @property
    def padded(self) -> list[str]:
        """Heading and cells, all as wide as the widest: text is aligned left, numbers right."""
        blanks = [(self.width - GAP - cell_len(text)) * " " for text in (self.heading, *self.cells)]
        pairs = zip((self.heading, *self.cells), blanks, strict=True)
        return [text + blank if self.is_text else blank + text for text, blank in pairs]


def runs_table(records: Sequence[RunRecord], *, sort: str | None = None) -> None:
    """Prints the runs, one row each: results, then hyperparameters; and why some runs did not finish.

    On a terminal, columns that do not fit are left out, and hyperparameters that are equal in all runs become a
    line below. A file or a pipe gets all columns.
    """
    console = Terminal(highlight=False)
    columns, same = _columns(records, sort), ""
    if console.is_terminal and _width(columns) > console.width:
        columns, same = _fold(columns, records, console.width)
    # Not a table of rich, which takes ten seconds for 10,000 runs.
    for number, cells in enumerate(zip(*(column.padded for column in columns), strict=True)):
        style = "bold" if number == 0 else "dim" if number % 2 == 0 and len(records) > 8 else None
        console.out((GAP * " ").join(cells).rstrip(), style=style, highlight=False)
    if same:
        console.print(same, markup=False)
    for record in records:
        if record.reason and record.status not in ("PRUNED", "FINISHED"):
            console.print(f"{record.name}: {record.reason}", style="dim", markup=False, soft_wrap=True)


def run_lines(record: RunRecord) -> list[str]:
    """One run as a few lines."""
    value = "no value yet" if record.value is None else f"{record.objective} {_number(record.value)}"
    where = "" if record.best_epoch is None else f", its best epoch {record.best_epoch}"
    groups = {
        "params": record.params,
        "last epoch": {k: v for k, v in record.metrics.items() if k.startswith(("train_", "val_")) or k == "lr"},
        "test part": record.test,
    }
    lines = [f"{record.name}  {value}  ({record.status.lower()}{where})", f"{'run':12}{record.run_id}"]
    if record.date:
        lines.append(f"{'started':12}{record.date}" + (f", in sweep {record.sweep}" if record.sweep else ""))
    for name, group in groups.items():
        if group:
            lines += _wrapped(name, [f"{key} {_plain(item)}" for key, item in group.items()])
    return lines


def verification_lines(verification: "Verification") -> list[str]:
    """The logged and the measured metrics side by side, and whether they are equal."""
    where = f"epoch {verification.epoch}, measured again on {verification.device}"
    lines = [f"{verification.name}  run {verification.run_id}", where, f"{'':26}{'logged':>22}{'measured':>22}"]
    lines += [
        f"{metric:26}{verification.logged[metric]!r:>22}{measured!r:>22}"
        for metric, measured in verification.measured.items()
    ]
    if verification.note:
        lines.append(verification.note)
    return [*lines, verification.verdict]


def prediction_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each image: the file, then class and probability, or the outputs of a regression."""
    width = max(len(row["image"]) for row in rows)
    if "class" not in rows[0]:
        return [f"{row['image']:{width}}  {' '.join(map(_plain, _flat(row['output'])))}" for row in rows]
    widest = max(len(row["class"]) for row in rows)
    return [f"{row['image']:{width}}  {row['class']:{widest}}  {row['probability']:.4f}" for row in rows]


def _columns(records: Sequence[RunRecord], sort: str | None) -> list[Column]:
    objectives = {record.objective for record in records if record.value is not None}
    measured = {name for record in records for name in record.metrics}
    metrics = [name for name in LAST_METRICS if name in measured and name != sort]
    params = dict.fromkeys(name for record in records for name in record.params)
    value = min(objectives) if len(objectives) == 1 else "value"

    def of(heading: str, rank: int, cell: Any, *, is_text: bool = False) -> Column:
        return Column(heading=heading, cells=[cell(record) for record in records], rank=rank, is_text=is_text)

    def metric(name: str) -> Any:
        return lambda record: _number(record.metrics.get(name))

    def param(name: str) -> Any:
        return lambda record: _plain(record.params.get(name))

    several = len({record.sweep for record in records}) > 1
    return [
        of("name", 0, lambda record: record.name, is_text=True),
        *([of("sweep", 0, lambda record: str(record.sweep or ""))] if several else []),
        of("run", 0, lambda record: record.run_id[:8], is_text=True),
        of("status", 0, lambda record: record.status.lower(), is_text=True),
        *([of(sort, 0, metric(sort))] if sort else []),
        of(value, 0, lambda record: _number(record.value)),
        of("at epoch", 1, lambda record: _count(record.best_epoch)),
        *(of(name, 0, param(name)) for name in params),
        of("reused", 2, lambda record: _count(record.metrics.get("reused_epochs"))),
        *(of(f"last {name}", 3, metric(name)) for name in metrics),
        of("started", 3, lambda record: record.date, is_text=True),
        of("recipe", 4, lambda record: record.recipe[:8], is_text=True),
    ]


def _fold(columns: list[Column], records: Sequence[RunRecord], width: int) -> tuple[list[Column], str]:
    """The columns that fit, and a line with the hyperparameters that are equal in all runs."""
    params = {name for record in records for name in record.params}
    for rank in (4, 3):
        if _width(columns) > width:
            columns = [column for column in columns if column.rank != rank]
    alike = [c for c in columns if c.heading in params and c.rank == 0 and len(set(c.cells)) == 1 and len(records) > 1]
    same = ""
    if _width(columns) > width and alike:
        columns = [column for column in columns if column not in alike]
        same = "all runs: " + "  ".join(f"{column.heading} {column.cells[0]}" for column in alike)
    for rank in (2, 1):
        if _width(columns) > width:
            columns = [column for column in columns if column.rank != rank]
    return columns, same


def _width(columns: Sequence[Column]) -> int:
    return sum(column.width for column in columns) - GAP


def _wrapped(name: str, items: Sequence[str]) -> list[str]:
    """Items under a name, on as many lines as they need."""
    width = max(60, shutil.get_terminal_size((100, 24)).columns)
    text = "  ".join(item.replace(" ", "\0") for item in items)
    lines = textwrap.wrap(text, width - 12, break_long_words=False, break_on_hyphens=False)
    return [f"{name if i == 0 else '':12}{line}".replace("\0", " ") for i, line in enumerate(lines)]


def _flat(output: Any) -> list[float]:
    return output if isinstance(output, list) else [output]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"


def _count(value: float | None) -> str:
    return "" if value is None else str(round(value))


def _plain(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
