"""Runs as tables and lines of text."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.tracking.runs import RunRecord

SHOWN_METRICS = ("val_accuracy", "val_loss", "val_mean_absolute_error")


def runs_table(records: Sequence[RunRecord], *, sort: str | None = None) -> None:
    """Prints the runs, one row each: what was searched, what came out."""
    console = Console(highlight=False)
    params = list(dict.fromkeys(name for record in records for name in record.params))
    measured = {name for record in records for name in record.metrics}
    metrics = list(dict.fromkeys([*([sort] if sort else []), *(name for name in SHOWN_METRICS if name in measured)]))
    table = Table(box=None, pad_edge=False, header_style="bold", row_styles=("", "dim") if len(records) > 8 else ())
    for heading in ("name", "run", "status"):
        table.add_column(heading, no_wrap=True)
    for heading in ("value", *metrics, "best epoch", "reused", *params):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("recipe", no_wrap=True)
    for record in records:
        table.add_row(
            record.name,
            record.run_id[:8],
            record.status.lower(),
            _number(record.value),
            *(_number(record.metrics.get(name)) for name in metrics),
            _count(record.metrics.get("best_epoch"), 1),
            _count(record.metrics.get("reused_epochs"), 0),
            *(_plain(record.params.get(name)) for name in params),
            record.recipe[:8],
        )
    if not console.is_terminal:
        console.width = max(console.width, 200)
    console.print(table)
    for record in records:
        if record.reason:
            console.print(f"{record.name}: {record.reason}", style="dim", markup=False)


def run_lines(document: Mapping[str, Any]) -> list[str]:
    """One run as a few lines."""
    value = "no value yet" if document["value"] is None else f"{document['value']:.4f}"
    lines = [f"{document['name']}  {value}  ({document['status'].lower()})", f"run {document['run_id']}"]
    for group in ("params", "metrics", "test"):
        if group in document:
            listed = "  ".join(f"{name} {_plain(value)}" for name, value in sorted(document[group].items()))
            lines.append(f"{group}: {listed}")
    return lines


def verification_lines(verification: Any, name: str) -> list[str]:
    """What was logged and what was measured, side by side, and whether they agree."""
    lines = [f"{name}  run {verification.run_id}", f"{'':26}{'logged':>22}{'measured':>22}"]
    lines += [
        f"{metric:26}{verification.logged[metric]!r:>22}{measured!r:>22}"
        for metric, measured in verification.measured.items()
    ]
    if verification.note:
        lines.append(verification.note)
    how = f"within tolerance ({verification.tolerance})" if verification.tolerance else "equal, bit for bit"
    lines.append(how if verification.match else f"NOT {how}")
    return lines


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"


def _count(value: float | None, offset: int) -> str:
    return "" if value is None else str(round(value) + offset)


def _plain(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
