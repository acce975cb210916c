"""Pictures of what the values of hyperparameters did: importance with its range, slices, two against each other."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.reporting.pages.axes import Scale, thin_out
from harness.reporting.pages.drawing import (
    BLUE,
    GOOD,
    GRID,
    INK,
    MUTED,
    RED,
    Picture,
    figure,
    in_style,
    listed,
    shown,
)
from harness.tracking.runs import RunRecord

ENOUGH = 10  # distinct results for each hyperparameter: below it, an estimate of importance is chance
PANELS = 4  # slices in a row
MOST_CELLS = 12  # values of a hyperparameter that have a row or a column each
MOST_POINTS = 250  # with a hint each
TOP = 0.1  # of the distinct results, by whose values the edges are judged, with those that equal the best one


@dataclass(frozen=True, kw_only=True)
class Range:
    """The values that a search may give to a hyperparameter: its ends, or all of them in order."""

    low: Any
    high: Any


@dataclass(frozen=True, kw_only=True)
class Edge:
    """A hyperparameter whose best values lie at an end of its range."""

    name: str
    value: Any
    range: Range
    is_upper: bool
    share: float  # of the best results

    def __str__(self) -> str:
        end, beyond = ("upper", "higher") if self.is_upper else ("lower", "lower")
        where = f"{self.name}: the best result has {shown(self.value)}, the {end} end of its range"
        span = f"({shown(self.range.low)} to {shown(self.range.high)})"
        if self.share > 0.5:
            return f"{where} {span}, as most of the best have: try {beyond} values"
        return f"{where} {span}, but few of the other good ones have: a weak sign"


def find_edges(ranked: Sequence[Sequence[RunRecord]], ranges: Mapping[str, Range]) -> list[Edge]:
    """The ranges at whose end the best result lies, and how many of the best tenth.

    `ranked` are the trials of each distinct result, the best result first. A result that was reached with several
    values says nothing about them.
    """
    edges = []
    equal = sum(same[0].value == ranked[0][0].value for same in ranked)
    top = ranked[: max(3, math.ceil(TOP * len(ranked)), equal)]
    for name, found in ranges.items():
        own = [{repr(record.params.get(name)) for record in same} for same in ranked]
        if found.low == found.high or len(own[0]) > 1 or len(set().union(*own)) < 2:
            continue
        value = ranked[0][0].params.get(name)
        share = sum(values == own[0] for values in own[: len(top)]) / len(top)
        if _is_same(value, found.low) or _is_same(value, found.high):
            edges.append(Edge(name=name, value=value, range=found, is_upper=_is_same(value, found.high), share=share))
    return edges


def _is_same(value: Any, end: Any) -> bool:
    """Whether a value is an end of a range, but for rounding."""
    return isinstance(value, int | float) and math.isclose(value, end, rel_tol=1e-4)


@in_style
def draw_importance(importances: Sequence[tuple[str, float, float, float]], *, results: int) -> Picture:
    """How much each hyperparameter explains of what came out: name, value, and the ends of its range over resamples."""
    ordered = importances[::-1]
    drawn, panel = figure(5.6, 0.9 + 0.42 * len(ordered))
    for place, (_, value, low, high) in enumerate(ordered):
        panel.plot([low, high], [place, place], color=BLUE, linewidth=7, alpha=0.3, solid_capstyle="butt")
        panel.plot([value], [place], "o", color=BLUE, markersize=7)
        panel.annotate(
            f"{value:.0%}", (value, place), (0, 8), textcoords="offset points", ha="center", fontsize=8.5, color=INK
        )
    panel.set_yticks(range(len(ordered)), [name for name, *_ in ordered])
    panel.set_ylim(-0.6, len(ordered) - 0.2)
    panel.set_xlim(-0.03, 1.03)
    panel.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    panel.grid(axis="y", visible=False)
    panel.spines[["left"]].set_visible(False)
    panel.tick_params(axis="y", length=0, labelcolor=INK)
    (first, value, low, high), *others = importances
    rivals = [name for name, _, _, other_high in others if other_high > low]
    verdict = (
        f"mostly {first} ({value:.0%}, {low:.0%} to {high:.0%})"
        if not rivals
        else f"{listed([first, *rivals])}; which of them matters most cannot be said yet"
    )
    return Picture(
        name="importance",
        title="Importance of the hyperparameters",
        caption=f"What tells good results from the rest is {verdict}. Optuna's PED-ANOVA (Watanabe et al., 2023) over "
        f"{results} distinct results, each counted once; a bar is the range of 8 in 10 resamples.",
        figure=drawn,
    )


@in_style
def draw_slices(
    ranked: Sequence[Sequence[RunRecord]], names: Sequence[str], objective: str, *, maximize: bool
) -> Picture:
    """The objective against each hyperparameter, at its real values.

    `ranked` are the trials of each distinct result, the best result first; each has one point a value.
    """
    columns = min(PANELS, len(names))
    rows = -(-len(names) // columns)
    drawn, axes = figure(2.75 * columns, 2.5 * rows, rows, columns, squeeze=False, sharey=True)
    best = {record.run_id for record in ranked[0]}
    hints = {}
    for panel in axes.flat[len(names) :]:
        panel.set_axis_off()
    for number, (panel, name) in enumerate(zip(axes.flat, names, strict=False)):
        points = [record for same in ranked for record in _one_a_value(same, name)]
        scale = Scale([record.params.get(name) for record in points])
        if len(points) > MOST_POINTS:
            every = [r.params.get(name) for r in points]
            many = [value if scale.is_number else scale.distinct.index(value) for value in every]
            panel.plot(many, [r.value for r in points], "o", color=BLUE, markersize=3, alpha=0.4, markeredgewidth=0)
        few = points if len(points) <= MOST_POINTS else [record for record in points if record.run_id in best]
        for place, record in enumerate(few):
            value = record.params.get(name)
            x = value if scale.is_number else scale.distinct.index(value)
            (point,) = panel.plot(
                [x], [record.value], "o", color=RED if record.run_id in best else BLUE, markeredgewidth=0,
                zorder=5 if record.run_id in best else 3, markersize=7 if record.run_id in best else 5,
                alpha=1 if record.run_id in best else 0.55,
            )  # fmt: skip
            point.set_gid(f"slice-{number}-{place}")
            hints[f"slice-{number}-{place}"] = (
                f"{record.name}: {objective} {shown(record.value)}, {name} {shown(value)}"
            )
        _draw_middle(panel, points, name, scale)
        panel.set_xlabel(name, color=INK, fontweight="bold")
        if scale.is_log:
            panel.set_xscale("log")
            panel.minorticks_off()
        if not scale.is_number:
            panel.set_xticks(range(len(scale.distinct)), [shown(value) for value in scale.distinct])
        else:
            ticks = thin_out(scale.ticks(), 0.24 if scale.is_log else 0.13)
            at = [scale.low + (scale.high - scale.low) * place for place, _ in ticks]
            panel.set_xticks([math.exp(x) if scale.is_log else x for x in at], [label for _, label in ticks])
    _limit(axes, [same[0].value or 0.0 for same in ranked], maximize=maximize)
    for row in axes:
        row[0].set_ylabel(objective)
    return Picture(
        name="slices",
        title="Each hyperparameter against the objective",
        caption=f"A point is a distinct result; the best, of {ranked[0][0].name}, is orange, at each value "
        "that it was reached with. The line joins the medians of the "
        "results with each value: where it is level, the value did not matter.",
        figure=drawn,
        hints=hints,
    )


def _one_a_value(records: Sequence[RunRecord], name: str) -> list[RunRecord]:
    """The first of the records with each value of a hyperparameter."""
    return list({repr(record.params.get(name)): record for record in reversed(records)}.values())[::-1]


def _limit(axes: Any, values: Sequence[float], *, maximize: bool) -> None:
    """Cuts off the far worse end, where a few results would press all others together."""
    low, high = float(np.min(values)), float(np.max(values))
    middle = float(np.median(values))
    room = 3 * abs((high if maximize else low) - middle) or 1.0
    if maximize and low < middle - room:
        low = middle - room
    elif not maximize and high > middle + room:
        high = middle + room
    margin = 0.06 * ((high - low) or 1.0)
    for panel in axes.flat:
        panel.set_ylim(low - margin, high + margin)


def _draw_middle(panel: Any, ranked: Sequence[RunRecord], name: str, scale: Scale) -> None:
    """The median at each value of a stepped hyperparameter."""
    if not 1 < len(scale.distinct) <= MOST_CELLS:
        return
    x = [value if scale.is_number else place for place, value in enumerate(scale.distinct)]
    middles = [
        float(np.median([r.value for r in ranked if r.value is not None and r.params.get(name) == value]))
        for value in scale.distinct
    ]
    panel.plot(x, middles, color=MUTED, linewidth=1.3, zorder=2)


@in_style
def draw_contour(ranked: Sequence[RunRecord], pair: tuple[str, str], objective: str, *, maximize: bool) -> Picture:
    """The objective over two hyperparameters: the best result in each cell, at the real values."""
    scales = [Scale([record.params.get(name) for record in ranked]) for name in pair]
    edges = [_cells(scale) for scale in scales]
    best: dict[tuple[int, int], RunRecord] = {}
    counts: dict[tuple[int, int], int] = {}
    for record in ranked:
        places = [scale.place(record.params.get(name)) for scale, name in zip(scales, pair, strict=True)]
        cell = (_cell(edges[0], places[0]), _cell(edges[1], places[1]))
        best.setdefault(cell, record)
        counts[cell] = counts.get(cell, 0) + 1
    values = [record.value for record in best.values() if record.value is not None]
    distinct, order = np.unique(values, return_inverse=True)  # equal values get the same colour
    drawn, panel = figure(5.6, 4.2)
    panel.grid(False)
    hints = {}
    for (column, row), rank, record in zip(best, order, best.values(), strict=True):
        x, y = edges[0][column : column + 2], edges[1][row : row + 2]
        place = rank / max(1, len(distinct) - 1)
        share = float(place if maximize else 1 - place)
        patch = panel.fill([x[0], x[1], x[1], x[0]], [y[0], y[0], y[1], y[1]], color=GOOD(share), ec=GRID, lw=0.6)[0]
        patch.set_gid(f"cell-{column}-{row}")
        number = counts[column, row]
        hints[f"cell-{column}-{row}"] = (
            f"best {objective} {shown(record.value)} ({record.name}) of {number} run{'s' * (number > 1)}"
        )
        if len(edges[0]) * len(edges[1]) <= 80:
            colour = "#ffffff" if share > 0.75 else "#1c2730"
            panel.text(sum(x) / 2, sum(y) / 2, _short(record.value), ha="center", va="center", color=colour, fontsize=8)
    for axis, scale, name in ((panel.xaxis, scales[0], pair[0]), (panel.yaxis, scales[1], pair[1])):
        ticks = thin_out(scale.ticks(), 0.14 if axis is panel.xaxis else 0.06)
        axis.set_ticks([place for place, _ in ticks], [label for _, label in ticks])
        axis.set_label_text(name, color=INK, fontweight="bold")
    panel.set_xlim(edges[0][0], edges[0][-1])
    panel.set_ylim(edges[1][0], edges[1][-1])
    panel.tick_params(length=0)
    panel.spines[:].set_color(GRID)
    return Picture(
        name="contour",
        title=f"{pair[0]} and {pair[1]}",
        caption=f"The best {objective} of each combination, the bluer the better; where it is empty nothing was tried.",
        figure=drawn,
        hints=hints,
    )


def _cells(scale: Scale) -> list[float]:
    """The edges of an axis' cells: one cell a value where they are few, else eight of one width."""
    places = [scale.place(value) for value in scale.distinct]
    if len(places) > MOST_CELLS or len(places) < 2:
        return [-0.001, *(i / 8 for i in range(1, 8)), 1.001]
    middles = [(a + b) / 2 for a, b in itertools.pairwise(places)]
    return [places[0] - (middles[0] - places[0]), *middles, places[-1] + (places[-1] - middles[-1])]


def _cell(edges: Sequence[float], place: float) -> int:
    return max(0, min(len(edges) - 2, int(np.searchsorted(edges, place, side="right")) - 1))


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.3g}"
