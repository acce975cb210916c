"""Pictures of a search: learning curves, parallel coordinates, what mattered, and how it went on."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.reporting.pages.drawing import (
    BACKED,
    BLUE,
    DASHES,
    GOOD,
    INK,
    MUTED,
    RED,
    SERIES,
    Picture,
    figure,
    in_style,
    listed,
    number_epochs,
    shown,
)
from harness.tracking.runs import RunRecord

MOST_TICKS = 12  # values of a hyperparameter that are all named on its axis
FEW = 10  # trials a hyperparameter: fewer say little of its importance
FEW_WORDS = " So few trials give a hint, no more: chance has a large part in it."
SPREAD = 8  # from the lowest to the highest value: an axis with so many times more is logarithmic


@dataclass(frozen=True, kw_only=True, eq=False)
class Curves:
    """The epochs of one run: metrics by name, one value an epoch; `rates` are the learning rates.

    `equal` are the names of runs that went the same way.
    """

    record: RunRecord
    metrics: Mapping[str, Sequence[float]]
    rates: Sequence[float]
    equal: Sequence[str] = ()

    @property
    def changes(self) -> list[int]:
        """The epochs (from 0) that began with another learning rate than the one before."""
        return [epoch for epoch in range(1, len(self.rates)) if self.rates[epoch] != self.rates[epoch - 1]]


@in_style
def draw_curves(runs: Sequence[Curves], objective: str) -> Picture:
    """Learning curves of some runs, the best first; each change of the learning rate is marked."""
    measured = [name for name in (objective, "val_loss") if all(name in run.metrics for run in runs)]
    measured = list(dict.fromkeys(measured))
    drawn, axes = figure(11, 3.5, 1, len(measured) + 1)
    most = max(len(run.rates) for run in runs)
    for panel, name in zip(axes, measured, strict=False):
        panel.set_title(name)
        for place, run in enumerate(runs):
            _draw_curve(panel, run, run.metrics[name], place)
        number_epochs(panel, most)
    train = "train_loss"
    if "val_loss" in measured and train in runs[0].metrics:
        panel = axes[measured.index("val_loss")]
        epochs = range(1, len(runs[0].metrics[train]) + 1)
        panel.plot(epochs, runs[0].metrics[train], color=SERIES[0], linewidth=0.9, alpha=0.6)
        panel.set_title("val_loss (thin: train_loss of the best)")
    rates = axes[-1]
    rates.set_title("learning rate")
    rates.set_yscale("log")
    for place, run in enumerate(runs):
        steps = range(1, len(run.rates) + 1)
        label = run.record.name + (f" and {len(run.equal)} equal" if run.equal else "")
        rates.step(steps, run.rates, where="mid", color=SERIES[place], linestyle=DASHES[place], label=label)
    number_epochs(rates, most)
    drawn.legend(*rates.get_legend_handles_labels(), loc="outside lower center", ncols=len(runs))
    stepped = [run for run in runs if 0 < len(run.changes) <= len(run.rates) // 2]
    marks = " A triangle marks each epoch that began with another learning rate." if stepped else ""
    best = runs[0].record
    epoch = best.metrics.get("best_epoch")
    at = "" if epoch is None or best.value is None else f", {best.value:.4f} at epoch {round(epoch) + 1}"
    return Picture(
        name="learning-curves",
        title="Learning curves",
        caption=f"The {len(runs)} best runs that differ; {best.name} is the best{at}.{marks}" if len(runs) > 1 else
        f"{best.name}{at}.{marks}",
        figure=drawn,
    )  # fmt: skip


def _draw_curve(panel: Any, run: Curves, values: Sequence[float], place: int) -> None:
    epochs = range(1, len(values) + 1)
    panel.plot(epochs, values, color=SERIES[place], linestyle=DASHES[place], zorder=10 - place)
    if len(run.changes) <= len(values) // 2:  # a schedule that turns it all the time has no marks
        changed = [epoch for epoch in run.changes if epoch < len(values)]
        places = [epoch + 1 for epoch in changed], [values[epoch] for epoch in changed]
        panel.plot(*places, "v", color=SERIES[place], markersize=6, markeredgecolor=INK, markeredgewidth=0.6, zorder=11)


@in_style
def draw_parallel(trials: Sequence[RunRecord], names: Sequence[str], objective: str, *, maximize: bool) -> Picture:
    """Parallel coordinates: a line a trial, through its hyperparameters to its objective."""
    sign = 1 if maximize else -1
    ended = sorted((t for t in reversed(trials) if t.value is not None), key=lambda t: sign * (t.value or 0.0))
    drawn, panel = figure(11, 3.8)
    values = [trial.value for trial in ended if trial.value is not None]
    scales = [_Scale([trial.params.get(name) for trial in ended]) for name in names] + [_Scale(values)]
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
    _draw_axes(panel, [*names, objective], scales)
    return Picture(
        name="parallel-coordinates",
        title="Parallel coordinates",
        caption=f"Each line is one of {len(ended)} finished trials, the darker and bluer the better; the best, "
        f"{ended[-1].name}, is the thick orange one.",
        figure=drawn,
        hints=hints,
    )


def _draw_axes(panel: Any, names: Sequence[str], scales: Sequence["_Scale"]) -> None:
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
def draw_importance(importances: Mapping[str, float], *, trials: int) -> Picture:
    """How much each hyperparameter explains of what came out, as Optuna estimates it."""
    ordered = sorted(importances.items(), key=lambda item: item[1])
    drawn, panel = figure(7, 0.8 + 0.38 * len(ordered))
    bars = panel.barh([name for name, _ in ordered], [share for _, share in ordered], color=BLUE, height=0.6)
    panel.bar_label(bars, [f"{share:.0%}" for _, share in ordered], padding=4, color=INK, fontsize=9)
    panel.set_xlim(0, max(share for _, share in ordered) * 1.12 or 1)
    panel.set_xticks([])
    panel.grid(False)
    panel.spines[["bottom"]].set_visible(False)
    panel.tick_params(axis="y", length=0, labelcolor=INK)
    first = ordered[-1]
    return Picture(
        name="importance",
        title="Importance of the hyperparameters",
        caption=f"Optuna's PED-ANOVA (Watanabe et al., 2023) over {trials} finished trials: what tells good ones from "
        f"the rest is mostly {first[0]} ({first[1]:.0%})." + (FEW_WORDS if trials < FEW * len(ordered) else ""),
        figure=drawn,
    )


@in_style
def draw_history(trials: Sequence[RunRecord], objective: str, *, maximize: bool) -> Picture:
    """The objective of each trial in the order in which they were asked for, and the best so far."""
    drawn, panel = figure(7, 3.1)
    ended = [(number, trial) for number, trial in enumerate(trials) if trial.value is not None]
    others = [(number, trial) for number, trial in enumerate(trials) if trial.value is None]
    values = [trial.value or 0.0 for _, trial in ended]
    better = np.maximum.accumulate(values) if maximize else np.minimum.accumulate(values)
    numbers = [number for number, _ in ended]
    hints = {}
    panel.step(numbers, better, where="post", color=RED, linewidth=1.6, label="best so far")
    for number, trial in ended:
        (point,) = panel.plot([number], [trial.value], "o", color=BLUE, markersize=5, alpha=0.8)
        point.set_gid(f"point-{number}")
        hints[f"point-{number}"] = f"{trial.name}: {objective} {trial.value:.4f}"
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
        caption=f"Each point is a trial, the orange line the best so far: reached by trial {first}, {since} "
        f"{'trial' if since == 1 else 'trials'} ago.",
        figure=drawn,
        hints=hints,
    )


class _Scale:
    """The values of one axis, from 0 at its foot to 1: linear, logarithmic, or one place for each value."""

    def __init__(self, values: Sequence[Any]) -> None:
        distinct = list(dict.fromkeys(values))
        self.is_number = all(isinstance(v, int | float) and not isinstance(v, bool) for v in distinct)
        self.distinct = sorted(distinct, key=None if self.is_number else str)
        ends: tuple[float, float] = (self.distinct[0], self.distinct[-1]) if self.is_number else (0.0, 1.0)
        low, high = ends
        self.is_log = self.is_number and low > 0 and high / low >= SPREAD
        self.low, self.high = (math.log(low), math.log(high)) if self.is_log else (low, high)

    def place(self, value: Any) -> float:
        if not self.is_number:
            return self.distinct.index(value) / (len(self.distinct) - 1) if len(self.distinct) > 1 else 0.5
        own = math.log(value) if self.is_log else value
        return float((own - self.low) / (self.high - self.low)) if self.high > self.low else 0.5

    def ticks(self) -> list[tuple[float, str]]:
        """Places and labels: each value where they are few and apart, else some between the ends."""
        at = [(self.place(value), shown(value)) for value in self.distinct]
        gaps = [b[0] - a[0] for a, b in itertools.pairwise(at)]
        if not self.is_number or (len(at) <= MOST_TICKS and all(gap > 0.05 for gap in gaps)):
            return at
        between = [self.low + (self.high - self.low) * i / 4 for i in range(5)]
        return [(i / 4, shown(float(math.exp(own) if self.is_log else own))) for i, own in enumerate(between)]


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
