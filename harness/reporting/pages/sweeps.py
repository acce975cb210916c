"""Compares sweeps of a spec: the effect of an edit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.reporting.pages.drawing import BLUE, INK, MUTED, RED, Picture, figure, in_style, shown
from harness.reporting.pages.summary import shown_value
from harness.reporting.pages.trust import shown_interval
from harness.results.statistics import share_interval, shares_differ
from harness.tracking.runs import RunRecord

MOST_SWEEPS = 6  # drawn beside each other, the newest ones


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One study of a spec. `values` are those of its finished runs; `changes` say what is new in it."""

    number: int
    date: str
    records: Sequence[RunRecord]
    best: RunRecord | None
    images: int | None  # of the validation part, where the objective is a share of them
    changes: Sequence[str]
    is_comparable: bool  # with the newest one: the same data

    @property
    def values(self) -> list[float]:
        return [record.value for record in self.records if record.value is not None]


def describe_edit(sweeps: Sequence[Sweep], objective: str, *, maximize: bool, verdict: str = "") -> str:
    """What the newest edit did to the best value and to the median, in a sentence or two.

    `verdict` says whether the best models differ on the same validation images, where that could be measured.
    """
    before, after = sweeps[-2], sweeps[-1]
    if before.best is None or after.best is None or before.best.value is None or after.best.value is None:
        return "One of the last two sweeps has no finished run yet."
    gain = (after.best.value - before.best.value) * (1 if maximize else -1)
    middle = (float(np.median(after.values)) - float(np.median(before.values))) * (1 if maximize else -1)
    text = (
        f"From sweep {before.number} to sweep {after.number} the best {objective} went from "
        f"{shown_value(before.best.value)} to {shown_value(after.best.value)} ({_better(gain)}), the median "
        f"became {_better(middle)}."
    )
    if verdict:
        return f"{text} On the same validation images, one by one: {verdict}."
    if not after.is_comparable or not before.is_comparable:
        return f"{text} Their data differ, so that the values cannot be compared directly."
    if after.images and before.images:
        differ = shares_differ(before.best.value, after.best.value, min(before.images, after.images))
        text += (
            " The difference of the best values is significant with so many images."
            if differ
            else " The difference of the best values is not significant with so many images."
        )
    return text


def _better(gain: float) -> str:
    return f"{abs(gain):.4f} {'better' if gain > 0 else 'worse'}" if gain else "the same"


def sweeps_table(sweeps: Sequence[Sweep]) -> list[list[str]]:
    """A row a sweep, the newest first: number, date, runs, best value, its interval, the median, what had changed."""
    rows = []
    for sweep in reversed(sweeps):
        value = None if sweep.best is None else sweep.best.value
        interval = shown_interval(share_interval(value, sweep.images)) if sweep.images and value is not None else ""
        middle = shown_value(float(np.median(sweep.values))) if sweep.values else ""
        name = "" if sweep.best is None else f"{sweep.best.name}: {shown_value(value)}"
        rows.append(
            [
                str(sweep.number),
                sweep.date,
                str(len(sweep.records)),
                name,
                interval,
                middle,
                "; ".join(sweep.changes) or "the first sweep",
            ]
        )
    return rows


@in_style
def draw_sweeps(sweeps: Sequence[Sweep], objective: str) -> Picture:
    """The values of each sweep beside each other: a point a run, a bar at the median, the best one orange."""
    drawn_sweeps = list(sweeps)[-MOST_SWEEPS:]
    drawn, panel = figure(2.2 + 1.3 * len(drawn_sweeps), 3.4)
    generator = np.random.default_rng(0)
    hints = {}
    for place, sweep in enumerate(drawn_sweeps):
        for number, record in enumerate(sweep.records):
            if record.value is None:
                continue
            is_best = sweep.best is not None and record.run_id == sweep.best.run_id
            (point,) = panel.plot(
                [place + (0 if is_best else generator.uniform(-0.22, 0.22))], [record.value], "o",
                color=RED if is_best else BLUE, alpha=1 if is_best else 0.5, markersize=7 if is_best else 5,
                markeredgewidth=0, zorder=5 if is_best else 3,
            )  # fmt: skip
            point.set_gid(f"run-{place}-{number}")
            hints[f"run-{place}-{number}"] = f"{record.name}: {objective} {shown(record.value)}"
        if sweep.values:
            middle = float(np.median(sweep.values))
            panel.plot([place - 0.3, place + 0.3], [middle, middle], color=INK, linewidth=1.6, zorder=4)
    panel.set_xticks(range(len(drawn_sweeps)), [f"sweep {s.number}\n{s.date[:10]}" for s in drawn_sweeps], color=MUTED)
    panel.set_xlim(-0.6, len(drawn_sweeps) - 0.4)
    panel.set_ylabel(objective)
    panel.grid(axis="x", visible=False)
    return Picture(
        name="sweeps",
        title="The values of each sweep",
        caption="A point is a run, the bar their median, the best one of each sweep is orange.",
        figure=drawn,
        hints=hints,
    )


def sweeps_of(
    every: Sequence[RunRecord],
    bests: Mapping[int, RunRecord | None],
    changes: Mapping[int, Sequence[str]],
    images: Mapping[int, int | None],
    same_data: Mapping[int, bool],
) -> list[Sweep]:
    """The sweeps among runs, the oldest first."""
    numbers = sorted({record.sweep for record in every if record.study})
    made = []
    for number in numbers:
        records = [record for record in every if record.sweep == number and record.study]
        made.append(
            Sweep(
                number=number,
                date=min(record.date for record in records),
                records=records,
                best=bests.get(number),
                images=images.get(number),
                changes=changes.get(number, ()),
                is_comparable=same_data.get(number, True),
            )
        )
    return made


def changed_data(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether two studies had other data, as far as is known."""
    return bool(before and after) and before.get("data") != after.get("data")
