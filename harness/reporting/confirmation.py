"""The result of `confirm`, as a screen and as JSON."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.reporting.terminal import Terminal
from harness.results.sentences import describe_seeds

if TYPE_CHECKING:
    from harness.results.confirm import Confirmation

NARROW = 80


def print_confirmation(found: "Confirmation") -> None:
    """One row for each seed, then mean, standard deviation and interval, and what they say about the best run."""
    console = Terminal(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, NARROW)
    best, objective = found.best, found.best.objective
    params = "  ".join(f"{name} {_plain(value)}" for name, value in best.params.items())
    console.print()
    _say(console, f"{best.name} ({best.run_id[:8]}) again with other seeds: {params}", style="bold")
    measures = list(found.spreads)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("seed", "run", ""):
        table.add_column(heading, no_wrap=True)
    for measure in measures:
        table.add_column(measure, justify="right", no_wrap=True)
    for run in found.runs:
        values = {objective: run.record.value} | run.test
        shown = [_number(values.get(measure)) for measure in measures]
        name = run.record.name if run.record.value is not None else f"{run.record.name} {run.record.status.lower()}"
        table.add_row(str(run.seed), name, run.record.run_id[:8], *shown)
    spreads = list(found.spreads.values())
    table.add_row()
    table.add_row(Text("mean"), "", "", *(_number(spread.mean.value) for spread in spreads), style="bold")
    table.add_row(Text("std"), "", "", *(_number(spread.standard_deviation) for spread in spreads))
    table.add_row(Text("95%"), "from", "", *(_number(spread.mean.low) for spread in spreads))
    table.add_row(Text(""), "to", "", *(_number(spread.mean.high) for spread in spreads))
    console.print(table)
    console.print()
    for line in describe_seeds(found):
        _say(console, line)


def as_json(found: "Confirmation") -> dict[str, Any]:
    """The document that `confirm --json` prints."""
    return {
        "best": found.best.as_json() | {"seed": found.seed},
        "objective": found.best.objective,
        "runs": [run.record.as_json() | {"seed": run.seed, "test": run.test} for run in found.runs],
        "over_seeds": {
            name: {
                "mean": spread.mean.value,
                "standard_deviation": spread.standard_deviation,
                "interval": [spread.mean.low, spread.mean.high],
                "level": spread.mean.level,
            }
            for name, spread in found.spreads.items()
        },
        "test_looks": [asdict(look) for look in found.looks],
        "is_new_look": found.is_new_look,
    }


def _say(console: Console, text: str, style: str | None = None) -> None:
    console.print(text, style=style, markup=False, soft_wrap=not console.is_terminal)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _plain(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
