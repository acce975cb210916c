"""The interactive part of the page: the data for its script, and the table of results."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from matplotlib.colors import to_hex

from harness.reporting.pages.axes import Scale
from harness.reporting.pages.drawing import GOOD, RED, shown
from harness.reporting.pages.trust import Trust, shown_interval
from harness.reporting.pages.ways import Way
from harness.tracking.runs import RunRecord

MOST_RUNS = 3_000  # in the parallel coordinates, the best ones
MOST_OPEN = 15  # rows of the table that are open at first
DIGITS = 5  # of the numbers in a curve


@dataclass(frozen=True, kw_only=True, eq=False)
class Explored:
    """The runs of a page, as its interactive part shows them: ways in groups of one result each, the best first."""

    results: Sequence[Sequence[Way]]
    names: Sequence[str]  # hyperparameters that vary
    objective: str
    maximize: bool
    trust: Trust
    has_sweeps: bool  # of several studies


def leaderboard(shown_runs: Explored) -> str:
    """The distinct results as a table, the best first; copies of a result are counted in its row."""
    results, names, objective = shown_runs.results, shown_runs.names, shown_runs.objective
    has_lengths = len({len(way.rates) for ways in results for way in ways}) > 1
    has_intervals = shown_runs.trust.images is not None
    heads = [
        "", "run", *(["sweep"] if shown_runs.has_sweeps else []), objective,
        *(["95% interval"] if has_intervals else []), "at epoch", *names, *(["epochs"] if has_lengths else []),
        "reused",
    ]  # fmt: skip
    values = [ways[0].record.value for ways in results if ways[0].record.value is not None]
    low, high = (min(values), max(values)) if values else (0.0, 0.0)
    rows = [_row(shown_runs, place, ways, (low, high), has_lengths=has_lengths) for place, ways in enumerate(results)]
    head = "".join(
        f'<th scope="col"{_kind(text)}><button type="button">{escape(text) or "rank"}</button></th>' for text in heads
    )
    folded = ' class="folded"' if len(rows) > MOST_OPEN else ""
    more = f'<button type="button" id="more" hidden>show all {len(rows)}</button>' if folded else ""
    return (
        f'<div class="wide"><table id="runs"{folded}><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{more}"
    )


def _kind(heading: str) -> str:
    return ' class="text"' if heading == "run" else ""


def _row(shown_runs: Explored, place: int, ways: Sequence[Way], ends: tuple[float, float], *, has_lengths: bool) -> str:
    way, trust = ways[0], shown_runs.trust
    record, *others = (record for way in ways for record in way.runs)
    best_epoch, reused = record.best_epoch, record.metrics.get("reused_epochs")
    low, high = ends
    share = 1.0 if record.value is None or high == low else (record.value - low) / (high - low)
    share = share if shown_runs.maximize or high == low else 1 - share  # the longer the better
    bar = f'<span class="bar" style="--share:{0.06 + 0.94 * share:.3f}"></span>'
    interval = trust.interval(record.value)
    close = ' <span class="close" title="not significantly worse than the best one">≈ best</span>'
    copies = (
        f' <span class="copies" title="{_escaped(", ".join(record.name for record in others))}">'
        f"\u00d7{len(others) + 1}</span>"
        if others
        else ""
    )
    status = (
        ""
        if record.status == "FINISHED"
        else f' <span class="{record.status.lower()}" title="{escape(record.reason or "", quote=True)}">'
        f"{escape(record.status.lower())}</span>"
    )
    cells = [
        (place + 1, str(place + 1), ""),
        (record.name, f'<button type="button" class="open">{escape(record.name)}</button>{copies}{status}', "text"),
        *([(record.sweep, str(record.sweep or ""), "")] if shown_runs.has_sweeps else []),
        (record.value, "" if record.value is None else f"{bar}{record.value:.4f}", "value"),
        *(
            [
                (
                    None if interval is None else interval.low,
                    ""
                    if interval is None
                    else shown_interval(interval) + (close if place and trust.is_close(record.value) else ""),
                    "interval",
                )
            ]
            if trust.images is not None
            else []
        ),
        (best_epoch, "" if best_epoch is None else str(best_epoch), ""),
        *(
            (record.params.get(name), escape(shown(record.params.get(name, ""))), "") for name in shown_runs.names
        ),
        *([(len(way.rates) or None, str(len(way.rates) or ""), "")] if has_lengths else []),
        (reused, "" if reused is None else str(round(reused)), ""),
    ]  # fmt: skip
    made = "".join(f"<td{_class(kind)}{_sort_key(key)}>{html}</td>" for key, html, kind in cells)
    return f'<tr data-row="{place}">{made}</tr>'


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _escaped(text: str) -> str:
    return escape(text, quote=True)


def _sort_key(key: Any) -> str:
    if key is None or (isinstance(key, float) and math.isnan(key)):
        return ""
    return f' data-key="{escape(str(key), quote=True)}"'


def script_data(shown_runs: Explored) -> str:
    """What the page's script gets, as JSON that may stand inside HTML."""
    ways = [(row, way) for row, found in enumerate(shown_runs.results) for way in found]
    triples = [(row, number, record) for number, (row, way) in enumerate(ways) for record in way.runs][:MOST_RUNS]
    placed = [record for _, _, record in triples if record.value is not None]
    names = shown_runs.names
    scales = [Scale([record.params.get(name) for record in placed]) for name in names] if placed else []
    objective = Scale([record.value for record in placed]) if placed else None
    ranks = {record.run_id: number for number, record in enumerate(placed)}
    runs = []
    for row, way, record in triples:
        at = None
        if record.value is not None and objective is not None:
            at = [scale.place(record.params.get(name)) for scale, name in zip(scales, names, strict=True)]
            at = [round(place, 4) for place in (*at, objective.place(record.value))]
        rank = ranks.get(record.run_id)
        runs.append(
            {
                "id": record.run_id,
                "name": record.name,
                "row": row,
                "way": way,
                "value": None if record.value is None else f"{record.value:.4f}",
                "at": at,
                "colour": None
                if rank is None
                else RED
                if rank == 0
                else to_hex(GOOD(1 - rank / max(1, len(placed) - 1))),
                "facts": _facts(shown_runs, record),
            }
        )
    document = {
        "objective": shown_runs.objective,
        "maximize": shown_runs.maximize,
        "axes": [
            {"name": name, "ticks": scale.ticks()}
            for name, scale in zip((*names, shown_runs.objective), (*scales, objective), strict=False)
            if scale is not None
        ],
        "runs": runs,
        "ways": [_curves(way) for _, way in ways],
    }
    return json.dumps(document, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _facts(shown_runs: Explored, record: RunRecord) -> list[tuple[str, str]]:
    interval, best = shown_runs.trust.interval(record.value), record.best_epoch
    rows = {
        shown_runs.objective: None if record.value is None else f"{record.value:.4f}",
        "95% interval": None if interval is None else shown_interval(interval),
        "at epoch": None if best is None else str(best),
        "status": record.status.lower() + (f": {record.reason}" if record.reason else ""),
        **{name: shown(value) for name, value in record.params.items()},
        "sweep": str(record.sweep) if record.sweep else None,
        "started": record.date or None,
    }
    return [(name, text) for name, text in rows.items() if text is not None]


def _curves(way: Way) -> Mapping[str, Sequence[float | None]]:
    wanted = [name for name in way.metrics if name != "epoch_seconds"]
    return {name: [_short(value) for value in way.metrics[name]] for name in wanted}


def _short(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
