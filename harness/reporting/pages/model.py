"""Pictures of a model's mistakes: confusion, the worst images, calibration; for regression, the residuals."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from numpy.typing import NDArray

from harness.reporting.pages.drawing import (
    BLUE,
    GRID,
    INK,
    MUTED,
    ORANGE,
    RED,
    Picture,
    figure,
    in_style,
    listed,
    shown,
)

MOST_ANNOTATED = 20  # classes whose counts are written into the matrix
MOST_NAMED = 40  # classes whose names stand beside it
SHARES = LinearSegmentedColormap.from_list("shares", [(*to_rgb(BLUE), 0.0), (*to_rgb(BLUE), 1.0)])  # over any paper
BINS = 15  # Guo et al., 2017
COLUMNS, ROWS = 6, 2  # of images
FEW_IMAGES = 10  # with fewer images in a bin, its accuracy says little
SEEN = 24  # training images that are shown
MOST_MIXED = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """The predictions of a classifier for N images, and the true classes."""

    probabilities: NDArray[np.float64]  # (N, K)
    targets: NDArray[np.int64]  # (N,)
    classes: tuple[str, ...]

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """The likeliest class of each image, (N,)."""
        return np.asarray(self.probabilities.argmax(1))

    @cached_property
    def confidence(self) -> NDArray[np.float64]:
        """The probability of that class, (N,)."""
        return np.asarray(self.probabilities.max(1))

    @property
    def accuracy(self) -> float:
        return float((self.predicted == self.targets).mean())

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Counts, (K true, K predicted)."""
        counts = np.zeros((len(self.classes), len(self.classes)), np.int64)
        np.add.at(counts, (self.targets, self.predicted), 1)
        return counts

    def mixed_up(self) -> list[tuple[str, str, int, int]]:
        """The most frequent mistakes: true class, predicted class, how often, of how many."""
        wrong = self.confusion - np.diag(np.diag(self.confusion))
        places = np.argsort(-wrong, axis=None, kind="stable")[:MOST_MIXED]
        pairs = [(int(place) // len(self.classes), int(place) % len(self.classes)) for place in places]
        totals = self.confusion.sum(1)
        return [(self.classes[i], self.classes[j], int(wrong[i, j]), int(totals[i])) for i, j in pairs if wrong[i, j]]

    def most_wrong(self) -> list[int]:
        """The places of wrong images, the one with the least probability of its true class first."""
        own = self.probabilities[np.arange(len(self.targets)), self.targets]
        order = np.argsort(own, kind="stable")
        return [int(place) for place in order if self.predicted[place] != self.targets[place]][: COLUMNS * ROWS]

    def calibration(self) -> tuple[list[tuple[float, float, int]], float]:
        """Mean confidence, accuracy and count of each bin of confidence, and the expected calibration error."""
        bins = np.minimum((self.confidence * BINS).astype(int), BINS - 1)
        right = self.predicted == self.targets
        rows = []
        for number in range(BINS):
            inside = bins == number
            if inside.any():
                rows.append((float(self.confidence[inside].mean()), float(right[inside].mean()), int(inside.sum())))
        error = sum(count * abs(sure - true) for sure, true, count in rows) / len(right)
        return rows, float(error)


@in_style
def draw_confusion(answers: Answers) -> Picture:
    """The confusion matrix, each row as shares of its true class."""
    counts, classes = answers.confusion, answers.classes
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    number = len(classes)
    side = min(9.0, 2.6 + 0.46 * number)
    drawn, panel = figure(side + 0.9, side)
    panel.grid(False)
    if number <= MOST_NAMED:
        mesh = panel.pcolormesh(shares, cmap=SHARES, vmin=0, vmax=1, edgecolors=GRID, linewidth=0.5)
        middles = np.arange(number) + 0.5
        panel.set_xticks(middles, classes, rotation=45, ha="right", rotation_mode="anchor")
        panel.set_yticks(middles, classes)
    else:  # as one raster image: ten thousand rectangles are slow to show
        mesh = panel.imshow(shares, cmap=SHARES, vmin=0, vmax=1, extent=(0, number, number, 0), interpolation="none")
    panel.set_ylim(number, 0)
    panel.set_aspect("equal")
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    panel.set_xlabel("predicted")
    panel.set_ylabel("true")
    if number <= MOST_ANNOTATED:
        for i, j in np.argwhere(counts):
            colour = "#ffffff" if shares[i, j] > 0.5 else INK
            panel.text(j + 0.5, i + 0.5, str(counts[i, j]), ha="center", va="center", color=colour, fontsize=8)
    bar = drawn.colorbar(mesh, ax=panel, shrink=0.6, format=lambda share, _: f"{share:.0%}")
    bar.outline.set_visible(False)
    own = np.diag(shares)
    worst, finest = int(own.argmin()), int(own.argmax())
    return Picture(
        name="confusion-matrix",
        title="Confusion matrix",
        caption=f"A row is a true class, a column a predicted class; colours are shares of the row. The diagonal "
        f"is the recall, from {own[worst]:.0%} for {classes[worst]} to {own[finest]:.0%} for {classes[finest]}.",
        figure=drawn,
    )


@in_style
def draw_calibration(answers: Answers) -> Picture:
    """Accuracy against confidence (a reliability diagram)."""
    rows, error = answers.calibration()
    drawn, (panel, below) = figure(4.6, 4.6, 2, 1, height_ratios=(3, 1), sharex=True)
    panel.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="perfectly calibrated")
    sure, _, counts = (list(column) for column in zip(*rows, strict=True))
    many = [(x, y) for x, y, count in rows if count >= FEW_IMAGES]
    few = [(x, y) for x, y, count in rows if count < FEW_IMAGES]
    for x, y in many:
        panel.plot([x, x], [x, y], color=ORANGE, linewidth=2)
    panel.plot([x for x, _ in many], [y for _, y in many], "o-", color=BLUE, markersize=5, label="this model",
               clip_on=False, zorder=3)  # fmt: skip
    if few:
        label = f"fewer than {FEW_IMAGES} images"
        panel.plot([x for x, _ in few], [y for _, y in few], "o", mfc="none", mec=MUTED, markersize=5, label=label)
    panel.set_ylabel("accuracy")
    panel.set_xlim(0, 1)
    panel.set_ylim(0, 1)
    panel.legend(loc="upper left")
    below.bar(sure, counts, width=0.045, color=BLUE)
    below.set_ylabel("images")
    below.set_xlabel("confidence")
    gap = float(answers.confidence.mean()) - answers.accuracy
    verdict = "overconfident" if gap > 0.02 else "underconfident" if gap < -0.02 else "well calibrated"
    return Picture(
        name="calibration",
        title="Calibration",
        caption=f"Expected calibration error {error:.3f} ({BINS} bins; Guo et al., 2017): on average the model is "
        f"{answers.confidence.mean():.0%} confident and {answers.accuracy:.0%} right: it is {verdict}.",
        figure=drawn,
    )


@in_style
def draw_wrong(answers: Answers, places: Sequence[int], images: Sequence[NDArray[np.uint8]]) -> Picture:
    """The images that the model is most wrong about; `images` are (H, W) or (H, W, 3) uint8."""
    rows = -(-len(images) // COLUMNS)
    drawn, axes = figure(11, 2.35 * rows, rows, COLUMNS, squeeze=False)
    for panel in axes.flat:
        panel.set_axis_off()
    for panel, place, image in zip(axes.flat, places, images, strict=False):
        panel.imshow(image, cmap="gray" if image.ndim == 2 else None, interpolation="nearest")
        said, true = answers.predicted[place], answers.targets[place]
        share = answers.probabilities[place]
        panel.set_title(
            f"said {answers.classes[said]} ({share[said]:.0%})\nis {answers.classes[true]} ({share[true]:.1%})",
            fontsize=8.5, fontweight="normal", color=INK, loc="center",
        )  # fmt: skip
    return Picture(
        name="most-wrong-images",
        title="The images it is most wrong about",
        caption="The images whose true class got the least probability. Often these are hard images or wrong labels.",
        figure=drawn,
    )


@in_style
def draw_seen(images: Sequence[NDArray[np.uint8]], names: Sequence[str]) -> Picture:
    """Training images after augmentation, with their classes; `images` are (H, W) or (H, W, 3) uint8."""
    columns = 2 * COLUMNS
    rows = -(-len(images) // columns)
    drawn, axes = figure(11, 1.15 * rows, rows, columns, squeeze=False)
    for panel in axes.flat:
        panel.set_axis_off()
    for panel, image, name in zip(axes.flat, images, names, strict=False):
        panel.imshow(image, cmap="gray" if image.ndim == 2 else None, interpolation="nearest")
        panel.set_title(name, fontsize=7.5, fontweight="normal", color=INK, loc="center", pad=2)
    return Picture(
        name="training-images",
        title="Training images as the model saw them",
        caption=f"The first {len(images)} of the first epoch, after augmentation. Do the labels still fit?",
        figure=drawn,
    )


@in_style
def draw_residuals(outputs: NDArray[np.float64], targets: NDArray[np.float64]) -> Picture:
    """A regression's predictions against the true values, and the residuals; both (N, D)."""
    outputs, targets = outputs.reshape(len(outputs), -1), targets.reshape(len(targets), -1)
    drawn, (panel, beside) = figure(9, 3.8, 1, 2)
    residuals = outputs - targets
    low, high = float(min(outputs.min(), targets.min())), float(max(outputs.max(), targets.max()))
    panel.plot([low, high], [low, high], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    panel.plot(targets.ravel(), outputs.ravel(), "o", color=BLUE, markersize=4, alpha=0.5, markeredgewidth=0)
    panel.set_xlabel("true")
    panel.set_ylabel("predicted")
    beside.hist(residuals.ravel(), bins=30, color=BLUE)
    beside.axvline(0, color=RED, linewidth=1.2)
    beside.set_xlabel("predicted minus true")
    error = float(np.abs(residuals).mean())
    bias = float(residuals.mean())
    variance = float(((targets - targets.mean(0)) ** 2).mean())
    explained = f", {1 - float((residuals**2).mean()) / variance:.0%} of the variance explained" if variance else ""
    return Picture(
        name="residuals",
        title="Predicted and true",
        caption=f"Mean absolute error {shown(error)}, bias {shown(bias)}{explained}.",
        figure=drawn,
    )


def mistakes_in_words(answers: Answers) -> str:
    """A sentence about the most frequent mistake.

    >>> probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8]])
    >>> mistakes_in_words(Answers(probabilities=probabilities, targets=np.array([0, 1, 1]), classes=("cat", "dog")))
    'Of 3 validation images 1 is wrong. Most often dog is taken for cat.'
    """
    pairs: Any = answers.mixed_up()
    wrong = int((answers.predicted != answers.targets).sum())
    if not pairs:
        return f"All {len(answers.targets):,} validation images are right."
    often = [f"{true} is taken for {said}" for true, said, count, _ in pairs if count == pairs[0][2]][:2]
    verb = "is" if wrong == 1 else "are"
    return f"Of {len(answers.targets):,} validation images {wrong:,} {verb} wrong. Most often {listed(often)}."
