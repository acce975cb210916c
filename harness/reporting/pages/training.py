"""Pictures of the best runs' training: curves, training and validation loss, the gain of each learning-rate drop."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.reporting.pages.drawing import (
    DASHES,
    INK,
    RED,
    SERIES,
    Picture,
    figure,
    in_style,
    listed,
    number_epochs,
    shown,
)
from harness.reporting.pages.ways import Way, find_drops, find_overfitting
from harness.results.statistics import shares_differ

MOST_GAPS = 4  # runs whose training and validation loss are drawn
SLIGHT = 0.1  # of the lowest validation loss: a smaller rise is a slight one


def label_way(way: Way, names: Sequence[str]) -> str:
    """The name of a way in a legend: its first run, how many went it, and its hyperparameters."""
    values = ", ".join(f"{name} {shown(way.record.params.get(name))}" for name in names)
    copies = f" (\u00d7{len(way.runs)})" if way.others else ""
    return f"{way.record.name}{copies}{': ' + values if values else ''}"


@in_style
def draw_curves(ways: Sequence[Way], objective: str, names: Sequence[str]) -> Picture:
    """Learning curves of some distinct results, the best first; each change of the learning rate is marked."""
    measured = list(dict.fromkeys(m for m in (objective, "val_loss") if all(m in way.metrics for way in ways)))
    drawn, axes = figure(11, 3.5 + 0.17 * len(ways), 1, len(measured) + 1)
    most = max(len(way.rates) for way in ways)
    for panel, name in zip(axes, measured, strict=False):
        panel.set_title(name)
        for place, way in enumerate(ways):
            _draw_curve(panel, way, way.metrics[name], place)
        number_epochs(panel, most)
    rates = axes[-1]
    rates.set_title("learning rate")
    rates.set_yscale("log")
    for place, way in enumerate(ways):
        steps = range(1, len(way.rates) + 1)
        label = label_way(way, names)
        rates.step(steps, way.rates, where="mid", color=SERIES[place], linestyle=DASHES[place], label=label)
    number_epochs(rates, most)
    drawn.legend(*rates.get_legend_handles_labels(), loc="outside lower left", ncols=1)
    marks = " A triangle marks each epoch that began with another learning rate." if any(w.drops for w in ways) else ""
    best = ways[0].record
    epoch = best.best_epoch
    at = "" if epoch is None or best.value is None else f", {best.value:.4f} at epoch {epoch}"
    return Picture(
        name="learning-curves",
        title="Learning curves",
        caption=f"The {len(ways)} best results that differ; {best.name} is the best{at}.{marks}" if len(ways) > 1 else
        f"{best.name}{at}.{marks}",
        figure=drawn,
    )  # fmt: skip


def _draw_curve(panel: Any, way: Way, values: Sequence[float], place: int) -> None:
    epochs = range(1, len(values) + 1)
    panel.plot(epochs, values, color=SERIES[place], linestyle=DASHES[place], zorder=10 - place)
    if len(way.changes) <= len(values) // 2:  # a schedule that turns it all the time has no marks
        changed = [epoch for epoch in way.changes if epoch < len(values)]
        places = [epoch + 1 for epoch in changed], [values[epoch] for epoch in changed]
        panel.plot(*places, "v", color=SERIES[place], markersize=6, markeredgecolor=INK, markeredgewidth=0.6, zorder=11)


@in_style
def draw_gap(ways: Sequence[Way]) -> Picture:
    """Training and validation loss of the top results; where one overfits, the epoch from which on is marked."""
    drawn, axes = figure(2.75 * len(ways), 2.7, 1, len(ways), squeeze=False, sharey=True)
    for panel, way, place in zip(axes.flat, ways, range(len(ways)), strict=True):
        epochs = range(1, len(way.metrics["val_loss"]) + 1)
        train, validation = way.metrics["train_loss"], way.metrics["val_loss"]
        panel.fill_between(epochs, train, validation, color=SERIES[place], alpha=0.15, linewidth=0)
        panel.plot(epochs, train, color=SERIES[place], linewidth=1.1, linestyle=(0, (3, 1.5)), label="training")
        panel.plot(epochs, validation, color=SERIES[place], label="validation")
        if (start := find_overfitting(way)) is not None:
            panel.axvline(start + 1, color=RED, linewidth=1.1, linestyle=(0, (2, 2)))
        for epoch in way.drops:
            panel.plot([epoch + 1], [validation[epoch]], "v", color=SERIES[place], markersize=5)
        panel.set_title(way.record.name)
        number_epochs(panel, len(epochs))
    axes.flat[0].set_ylabel("loss")
    axes.flat[0].legend(loc="best")
    return Picture(
        name="gap",
        title="Training and validation loss",
        caption=f"{' '.join(describe_gap(way) for way in ways)} The training loss is measured while training, with "
        "augmentation and dropout where there are any, so that it may lie above the validation loss.",
        figure=drawn,
    )


def describe_gap(way: Way) -> str:
    """Whether a run overfits, in a sentence."""
    start, validation = find_overfitting(way), way.metrics["val_loss"]
    if start is not None:
        lowest, best = min(validation), way.record.best_epoch
        later = f" Its {way.record.objective} was best after that, at epoch {best}." if (best or 0) > start + 1 else ""
        slightly = " slightly" * (validation[-1] < (1 + SLIGHT) * lowest)
        return (
            f"{way.record.name} overfits{slightly} from epoch {start + 1}: its validation loss rises from "
            f"{shown(lowest)} to {shown(validation[-1])} while the training loss falls.{later}"
        )
    last = min(range(len(validation)), key=lambda epoch: validation[epoch]) + 1
    if last >= len(validation) - 1 and len(validation) > 2:
        return (
            f"{way.record.name} does not overfit: its validation loss was lowest in epoch {last} of {len(validation)}."
        )
    return f"{way.record.name} does not overfit clearly: its validation loss ends near its lowest value (epoch {last})."


def drops_table(way: Way, metrics: Mapping[str, bool]) -> list[list[str]]:
    """What each drop of a run's learning rate gained: rows of run, epoch, rates, and each metric's change and gain.

    `metrics` are names, and whether more is better.
    """
    found = {name: find_drops(way, name, maximize=up) for name, up in metrics.items() if name in way.metrics}
    rows = []
    for number, drop in enumerate(next(iter(found.values()), ())):
        row = [way.record.name, str(drop.epoch + 1), f"{shown(drop.rates[0])} → {shown(drop.rates[1])}"]
        for name, drops in found.items():
            own = drops[number]
            row += [f"{own.before:.4f} → {own.after:.4f}", f"{own.gain(maximize=metrics[name]):+.4f}"]
        rows.append(row)
    return rows


def describe_drops(way: Way, metric: str, *, maximize: bool, images: int | None = None) -> str:
    """What the drops of a run's learning rate gained, in a sentence.

    `images` are those that the metric is a share of; a gain of so few of them that chance explains it is said to be so.
    """
    drops = find_drops(way, metric, maximize=maximize)
    if not drops:
        return f"{way.record.name} kept one learning rate throughout." if len(set(way.rates)) == 1 else ""
    gains = [drop.gain(maximize=maximize) for drop in drops]
    parts = [
        f"{gain:+.4f} at epoch {drop.epoch + 1}"
        + (f" ({round(gain * images):+d} of {images:,} images)" if images else "")
        for drop, gain in zip(drops, gains, strict=True)
    ]
    clear = [
        gain > 0 and (images is None or shares_differ(drop.before, drop.after, images))
        for drop, gain in zip(drops, gains, strict=True)
    ]
    times = {1: "once", 2: "twice"}.get(len(drops), f"{len(drops)} times")
    verdict = _verdict(sum(clear), len(drops), is_chance=max(gains) > 0)
    return f"{way.record.name} lowered its learning rate {times}. {verdict}: {metric} {listed(parts)}."


def _verdict(helped: int, drops: int, *, is_chance: bool) -> str:
    """How many drops helped; `is_chance` if one gained something, though no more than chance explains."""
    if helped:
        return "It helped" if drops == 1 else "All of them helped" if helped == drops else f"{helped} of them helped"
    if is_chance:
        return "It gained no more than chance explains" if drops == 1 else "None gained more than chance explains"
    return "It did not help" if drops == 1 else "None of them helped"
