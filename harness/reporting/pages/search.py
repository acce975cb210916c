"""Pictures of a search: parallel coordinates, and the objective over the trials."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.reporting.pages.axes import Scale
from harness.reporting.pages.drawing import (
    BACKED,
    BLUE,
    GOOD,
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

MOST_POINTS = 400  # with a hint each
MOST_LINES = 150  # that are lines in the page's picture; more of them become one raster image


@in_style
def draw_parallel(trials: Sequence[RunRecord], names: Sequence[str], objective: str, *, maximize: bool) -> Picture:
    """Parallel coordinates: one line for each trial, through its hyperparameters to its objective."""
    sign = 1 if maximize else -1
    ended = sorted((t for t in reversed(trials) if t.value is not None), key=lambda t: sign * (t.value or 0.0))
    drawn, panel = figure(11, 3.8)
    values = [trial.value for trial in ended if trial.value is not None]
    scales = [Scale([trial.params.get(name) for trial in ended]) for name in names] + [Scale(values)]
    ranks = _ranks(values, maximize=maximize)
    hints = {}
    generator = np.random.default_rng(0)
    for number, (trial, rank) in enumerate(zip(ended, ranks, strict=True)):
        is_best = number == len(ended) - 1
        heights = [scale.place(trial.params.get(name)) for scale, name in zip(scales, names, strict=False)]
        jitter = generator.uniform(-0.012, 0.012, len(heights))  # lines through the same values stay apart
        heights = [*(np.array(heights) + (0 if is_best else jitter)), scales[-1].place(trial.value)]
        x, y = _smooth(heights)
        (line,) = panel.plot(
            x, y, color=RED if is_best else GOOD(rank), alpha=1 if is_best else 0.35 + 0.5 * rank,
            linewidth=2.8 if is_best else 0.9 + 0.8 * rank, zorder=3 + rank,
        )  # fmt: skip
        line.set_gid(f"line-{trial.run_id[:8]}")
        params = ", ".join(f"{name} {shown(trial.params.get(name))}" for name in names)
        hints[f"line-{trial.run_id[:8]}"] = f"{trial.name}: {objective} {trial.value:.4f}, {params}"
    if len(ended) > MOST_LINES:
        panel.set_rasterization_zorder(3.99)  # all but the best: one image, in place of a path each
        hints = {}
    _draw_axes(panel, [*names, objective], scales)
    return Picture(
        name="parallel-coordinates",
        title="Parallel coordinates",
        caption=f"Each line is one of {len(ended)} trials with a value. Darker blue is better. "
        f"The best one is thick and orange: {ended[-1].name}.",
        figure=drawn,
        hints=hints,
    )


def _draw_axes(panel: Any, names: Sequence[str], scales: Sequence[Scale]) -> None:
    for place, scale in enumerate(scales):
        panel.axvline(place, color=MUTED, linewidth=0.9, zorder=2)
        for height, label in scale.ticks():
            panel.plot([place - 0.012, place + 0.012], [height, height], color=MUTED, linewidth=0.9, zorder=2)
            panel.annotate(
                label, (place, height), (-5, 0), textcoords="offset points", ha="right", va="center", color=MUTED,
                fontsize=8.5, zorder=20, bbox=BACKED,
            )  # fmt: skip
    panel.set_xticks(range(len(names)), names, color=INK, fontweight="bold")
    panel.xaxis.tick_top()
    panel.tick_params(length=0)
    panel.set_xlim(-0.25, len(names) - 0.85)
    panel.set_yticks([])
    panel.grid(False)
    panel.spines[:].set_visible(False)


@in_style
def draw_history(trials: Sequence[RunRecord], objective: str, *, maximize: bool) -> Picture:
    """The objective of each trial, in the order of the trials, and the best so far."""
    drawn, panel = figure(7, 3.1)
    ended = [(number, trial) for number, trial in enumerate(trials) if trial.value is not None]
    others = [(number, trial) for number, trial in enumerate(trials) if trial.value is None]
    values = [trial.value or 0.0 for _, trial in ended]
    better = np.maximum.accumulate(values) if maximize else np.minimum.accumulate(values)
    numbers = [number for number, _ in ended]
    hints = {}
    panel.step(numbers, better, where="post", color=RED, linewidth=1.6, label="best so far")
    for number, trial in ended if len(ended) <= MOST_POINTS else ():
        (point,) = panel.plot([number], [trial.value], "o", color=BLUE, markersize=5, alpha=0.8)
        point.set_gid(f"point-{number}")
        hints[f"point-{number}"] = f"{trial.name}: {objective} {trial.value:.4f}"
    if len(ended) > MOST_POINTS:
        panel.plot(numbers, values, "o", color=BLUE, markersize=3, alpha=0.5, markeredgewidth=0)
    if others:
        low = panel.get_ylim()[0]
        words = listed(sorted({trial.status.lower() for _, trial in others}))
        at = [number for number, _ in others]
        panel.plot(at, [low] * len(at), "x", color=MUTED, markersize=5, label=words, clip_on=False)
    panel.set_xlabel("trial")
    panel.set_ylabel(objective)
    panel.xaxis.get_major_locator().set_params(integer=True)
    if others:
        panel.legend(loc="best")
    first = next(number for number, value in zip(numbers, better, strict=True) if value == better[-1])
    since = len(trials) - 1 - first
    return Picture(
        name="optimisation-history",
        title="Optimisation history",
        caption=f"Each point is a trial, the orange line the best so far. Trial {first} reached it; "
        + (
            "no trial came after it."
            if not since
            else f"{since} trial{'s' * (since > 1)} since then did not do better."
        ),
        figure=drawn,
        hints=hints,
    )


def _ranks(values: Sequence[float], *, maximize: bool) -> list[float]:
    """From 0 for the worst to 1 for the best: ranks, so that one bad value does not hide all other differences."""
    order = np.argsort(np.argsort(values, kind="stable"), kind="stable") / max(1, len(values) - 1)
    return [float(rank if maximize else 1 - rank) for rank in order]


def _smooth(heights: Sequence[float]) -> tuple[Any, Any]:
    """A line through points at x = 0, 1, 2..., level at each of them."""
    along = np.linspace(0, 1, 24)
    eased = along * along * (3 - 2 * along)
    x = np.concatenate([place + along for place in range(len(heights) - 1)])
    y = np.concatenate([a + (b - a) * eased for a, b in itertools.pairwise(heights)])
    return x, y
