"""A comparison of runs as a screen, as sentences, and as JSON."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.reporting.terminal import Terminal
from harness.results.sentences import verdict
from harness.results.statistics import RESAMPLES

if TYPE_CHECKING:
    from harness.results.compare import Comparison, Pair

DIFF_STYLES = {"+": "green", "-": "red", "@": "cyan"}
NARROW = 80


def print_comparison(comparison: "Comparison") -> None:
    """Two runs in full; three or more as a table, each compared with the best."""
    console = Terminal(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = max(console.width, NARROW)
    if len(comparison.sides) == 2:
        _print_two(console, comparison)
    else:
        _print_many(console, comparison)
    for side in comparison.sides:
        if side.note:
            _say(console, f"{side.label}: {side.note}", style="yellow")


def as_json(comparison: "Comparison") -> dict[str, Any]:
    """The document that `compare --json` prints."""
    sides = comparison.sides
    groups: dict[str, Any] = {
        group: {name: list(values) for name, values in rows.items()} for group, rows in comparison.differing.items()
    }
    groups["code"] = [
        {"run_id": side.record.run_id, "parts": parts, "diff": "\n".join(diff)}
        for side, parts, diff in zip(sides[1:], comparison.code, comparison.diffs, strict=True)
    ]
    return {
        "runs": [
            side.record.as_json()
            | {"label": side.label, "best_epoch": side.best, "last_epoch": side.last}
            | {"settings": side.settings, "environment": side.environment}
            for side in sides
        ],
        "differences": groups,
        "comparisons": [_pair_as_json(pair) for pair in comparison.pairs],
    }


def _pair_as_json(pair: "Pair") -> dict[str, Any]:
    found, measured = pair.difference, pair.first.measured
    document: dict[str, Any] = {
        "first": pair.first.record.run_id,
        "second": pair.second.record.run_id,
        "is_real": None if found is None else pair.is_real,
        "verdict": verdict(pair),
    }
    if found is None or measured is None or pair.second.measured is None:
        return document
    document |= {
        "measure": measured.measure,
        "images": len(measured.scores),
        "values": [measured.mean, pair.second.measured.mean],
        "difference": found.value,
        "interval": [found.low, found.high],
        "level": found.level,
    }
    if pair.p_value is not None:
        names = ("both", "only_first", "only_second", "neither")
        document |= {"right": {name: getattr(pair, name) for name in names}, "p_value": pair.p_value}
    return document


def _print_two(console: Console, comparison: "Comparison") -> None:
    sides = comparison.sides
    names = {name for side in sides for name in (*side.best, *side.last)}
    rows = [row for rows in comparison.differing.values() for row in rows]
    width = max(map(len, (*names, *rows, "validation")))
    heads = {"run": [side.record.name for side in sides], "id": [side.record.run_id[:8] for side in sides]}
    heads |= {"experiment": [side.experiment for side in sides], "status": [s.record.status.lower() for s in sides]}
    always = ("run", "id")
    shown = {name: values for name, values in heads.items() if name in always or values[0] != values[1]}
    _print_rows(console, width, "", ["A", "B"], shown)

    differing = {name: values for rows in comparison.differing.values() for name, values in rows.items()}
    console.print()
    if differing:
        _print_rows(console, width, "differs", ["", ""], {n: list(map(_plain, v)) for n, v in differing.items()})
    else:
        _say(console, "params, settings and environment are equal.")
    if comparison.alike:
        _say(console, f"the same in both: {_listed(comparison.alike)}", style="dim")
    recipes = {side.record.recipe for side in sides}
    if len(recipes) == 1 and "" not in recipes:
        _say(console, "one recipe: they share each epoch until their learning rates differ", style="dim")

    for title, metrics in (("best epoch", [s.best for s in sides]), ("last epoch", [s.last for s in sides])):
        listed = dict.fromkeys(name for one in metrics for name in one)
        ordered = sorted(listed, key=lambda name: (name != "epoch", not name.startswith("val_"), name))
        values = {name: [_metric(name, one.get(name)) for one in metrics] for name in ordered}
        if values:
            console.print()
            _print_rows(console, width, title, ["A", "B"], values)
    if comparison.diffs[0]:
        _print_diff(console, comparison.diffs[0], comparison.code[0])
    console.print()
    _print_pair(console, comparison.pairs[0], differing)


def _print_rows(
    console: Console, width: int, title: str, headings: list[str], rows: Mapping[str, Iterable[str]]
) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(title, min_width=width, no_wrap=True)
    for heading in headings:
        table.add_column(heading, min_width=12, overflow="fold")
    for name, values in rows.items():
        table.add_row(Text(name), *map(Text, values))
    console.print(table)


def _print_diff(console: Console, diff: list[str], parts: list[str]) -> None:
    changed = ", ".join(parts) or "comments, layout or the search space, but nothing that an epoch computes"
    console.print()
    _say(console, f"code: {changed}", style="bold")
    for line in diff:
        style = "bold" if line.startswith(("+++", "---")) else DIFF_STYLES.get(line[:1])
        console.print(Text(line), style=style, soft_wrap=True)


def _print_pair(console: Console, pair: "Pair", differing: Iterable[str]) -> None:
    _say(console, verdict(pair), style="bold")
    first, second = pair.first.measured, pair.second.measured
    if pair.difference is None or first is None or second is None:
        return
    measure = first.measure.replace("_", " ")
    means = f"{pair.first.label} {first.mean:.4f}, {pair.second.label} {second.mean:.4f}"
    lines = [f"{measure} on the same {len(first.scores):,} validation images: {means}"]
    if pair.p_value is not None:
        lines.append(
            f"right: both {pair.both:,}, only {pair.first.label} {pair.only_first:,}, "
            f"only {pair.second.label} {pair.only_second:,}, neither {pair.neither:,}; "
            f"McNemar's exact test: {_p(pair.p_value)}"
        )
    lines.append(f"interval: paired bootstrap over the images, {RESAMPLES:,} resamples, BCa")
    if {*differing} - {"seed", "host"}:
        lines.append("this is about these two models; `confirm SPEC` shows how much depends on the seed")
    for line in lines:
        _say(console, f"  {line}", style="dim")


def _print_many(console: Console, comparison: "Comparison") -> None:
    sides, differing = comparison.sides, comparison.differing
    objectives = {side.record.objective for side in sides}
    columns: dict[str, list[str]] = {
        "": [side.label for side in sides],
        "name": [side.record.name for side in sides],
        "run": [side.record.run_id[:8] for side in sides],
    }
    if len({side.experiment for side in sides}) > 1:
        columns["experiment"] = [side.experiment for side in sides]
    if len({side.record.status for side in sides}) > 1:
        columns["status"] = [side.record.status.lower() for side in sides]
    columns |= {name: list(map(_plain, values)) for name, values in differing["params"].items()}
    for objective in sorted(objectives):
        columns[objective] = [_metric(objective, side.best.get(objective)) for side in sides]
        columns["at epoch"] = [_metric("epoch", side.best.get("epoch")) for side in sides]
        columns["last"] = [_metric(objective, side.last.get(objective)) for side in sides]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in columns:
        is_text = heading in ("", "name", "run", "experiment", "status")
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=True)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*map(Text, row))
    needed = sum(max(len(heading), *map(len, cells)) + 2 for heading, cells in columns.items())
    before, console.width = console.width, max(console.width, needed)  # long lines are wrapped, not cut
    console.print(table)
    console.width = before
    if comparison.alike:
        _say(console, f"the same in all: {_listed(comparison.alike)}", style="dim")

    for group in ("settings", "environment"):
        for name, values in differing[group].items():
            pairs = zip(sides, values, strict=True)
            _say(console, f"{name}: {', '.join(f'{side.label} {_plain(value)}' for side, value in pairs)}")
    first = sides[0]
    for side, parts, diff in zip(sides[1:], comparison.code, comparison.diffs, strict=True):
        if diff:
            command = f"python -m harness compare {first.record.run_id[:8]} {side.record.run_id[:8]}"
            what = ", ".join(parts) or "but nothing that an epoch computes"
            _say(console, f"code of {side.label} against {first.label}: {what}. See: {command}")
    console.print()
    _print_pairs(console, comparison.pairs)


def _print_pairs(console: Console, pairs: Iterable["Pair"]) -> None:
    pairs = list(pairs)
    best = next((pair.first for pair in pairs if pair.difference is not None), None)
    measured = best.measured if best is not None else None
    if measured is not None:
        _say(console, f"on the same {len(measured.scores):,} validation images, the best against each:", style="bold")
    for pair in pairs:
        p = "" if pair.p_value is None else f"; McNemar {_p(pair.p_value)}"
        name = f"{pair.first.label}, {pair.second.label}: " if pair.difference is not None else ""
        _say(console, f"  {name}{verdict(pair)}{p}")
    if measured is not None:
        level = pairs[0].difference.level if pairs[0].difference else 0.95
        _say(
            console,
            f"intervals: paired bootstrap over the images, {RESAMPLES:,} resamples, BCa; "
            f"at {100 * level:.3g}%, so that all {len(pairs)} together hold at 95%",
            style="dim",
        )


def _say(console: Console, text: str, style: str | None = None) -> None:
    console.print(text, style=style, markup=False, soft_wrap=not console.is_terminal)


def _p(value: float) -> str:
    return "p < 0.0001" if value < 0.0001 else f"p = {value:.2g}"


def _metric(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if name == "epoch" else f"{value:.6g}" if name == "lr" else f"{value:.4f}"


def _listed(values: Mapping[str, Any]) -> str:
    return "  ".join(f"{name} {_plain(value)}" for name, value in values.items())


def _plain(value: Any) -> str:
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
