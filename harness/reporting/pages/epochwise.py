"""Pictures of the best run's epochs: the accuracy of each class, the size of gradients and updates."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.ticker import LogLocator

from harness.reporting.pages.drawing import (
    BLUE,
    DASHES,
    MUTED,
    ORANGE,
    SERIES,
    Picture,
    figure,
    in_style,
    listed,
    number_epochs,
    shown,
)
from harness.reporting.pages.ways import Way

MOST_CLASSES = 10  # curves that can be told apart
GONE = 0.05  # of accuracy; a class that lost less has not been forgotten
STEPS = {
    "gradient_norm": "norm of the gradient, in the last step of each epoch",
    "update_size": "change of the weights in each epoch, over their norm",
}


@in_style
def draw_classes(name: str, curves: Mapping[str, Sequence[float]], *, best_epoch: int, first: int) -> Picture:
    """The accuracy of each class over the epochs of a run; of many classes, those that are least accurate.

    `best_epoch` and `first`, the epoch that the curves begin with, count from 1.
    """
    at = min(max(best_epoch - first, 0), max(map(len, curves.values())) - 1)
    known = {label: values for label, values in curves.items() if not math.isnan(values[at])}
    ordered = sorted(known, key=lambda label: known[label][at])
    drawn, panel = figure(7.4, 3.6)
    chosen = ordered[:MOST_CLASSES]
    for place, label in enumerate(reversed(chosen)):
        values = known[label]
        style: dict[str, Any] = {"color": SERIES[place % len(SERIES)], "linestyle": DASHES[place // len(SERIES)]}
        panel.plot(range(first, first + len(values)), values, label=f"{label}: {values[at]:.0%}", **style)
    panel.axvline(first + at, color=MUTED, linewidth=1, linestyle=(0, (2, 2)))
    number_epochs(panel, first + max(map(len, known.values())) - 1)
    panel.set_ylabel("share of its images that are right")
    drawn.legend(*panel.get_legend_handles_labels(), loc="outside right upper", title=f"class, at epoch {first + at}")
    return Picture(
        name="classes-over-epochs",
        title="Accuracy of each class over the epochs",
        caption=_describe_classes(name, known, ordered, at=at, first=first),
        figure=drawn,
    )


def _describe_classes(
    name: str, known: Mapping[str, Sequence[float]], ordered: Sequence[str], *, at: int, first: int
) -> str:
    some = f"The {MOST_CLASSES} least accurate of {len(ordered)} classes. " if len(ordered) > MOST_CLASSES else ""
    worst = ordered[0]
    text = (
        f"{some}Validation images of {name}; the dotted line is its best epoch, {first + at}. Least accurate there: "
        f"class {worst} ({known[worst][at]:.0%})."
    )
    lost = []
    for label, values in known.items():
        best = max(range(len(values)), key=lambda epoch: values[epoch])
        if values[best] - values[at] > GONE:
            lost.append((values[best] - values[at], label, best))
    if lost:
        _, label, best = max(lost)
        text += f" Class {label} was better in epoch {first + best}: {known[label][best]:.0%}."
    return text


def measured_steps(way: Way) -> dict[str, str]:
    """Which of gradient norm and update size are known of each epoch of a run, and their titles."""
    return {
        name: title
        for name, title in STEPS.items()
        if len(way.metrics.get(name, ())) == len(way.rates) and all(map(math.isfinite, way.metrics[name]))
    }


@in_style
def draw_steps(way: Way, measured: Mapping[str, str]) -> Picture:
    """Gradient norm and size of the updates in each epoch of a run: those of `measured_steps`."""
    drawn, axes = figure(4.6 * len(measured), 2.8, 1, len(measured), squeeze=False)
    for panel, (name, title), colour in zip(axes.flat, measured.items(), (BLUE, ORANGE), strict=False):
        values = way.metrics[name]
        epochs = range(1, len(values) + 1)
        panel.plot(epochs, values, color=colour)
        panel.plot([epoch + 1 for epoch in way.drops], [values[epoch] for epoch in way.drops], "v", color=colour)
        panel.set_title(title, fontsize=9.5)
        if min(values) > 0 and max(values) > 10 * min(values):
            panel.set_yscale("log")
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter("{x:g}")
            panel.minorticks_off()
        number_epochs(panel, len(values))
    return Picture(
        name="gradients",
        title="Gradients and updates",
        caption=describe_steps(way),
        figure=drawn,
    )


def describe_steps(way: Way) -> str:
    """What gradient norm and update size did, in a sentence each."""
    marks = " A triangle marks each epoch that began with a lower learning rate." if way.drops else ""
    told = []
    for name, what in (("gradient_norm", "the gradient's norm"), ("update_size", "the change of the weights")):
        if name in measured_steps(way):
            values = way.metrics[name]
            told.append(f"{what} went from {shown(values[0])} to {shown(values[-1])}")
    return f"In {way.record.name}, {listed(told)}.{marks}"
