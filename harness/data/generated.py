"""`shapes`: images that are generated, for demonstrations and tests without a download."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from harness.data.assemble import build_data
from harness.data.augment import Augment
from harness.data.drawing import FIGURES, FILLS, HUES, Array, blend, colours, cover, place
from harness.data.part import Arrays, Data
from harness.data.split import Indices
from harness.errors import HarnessError

CHUNK = 256  # images that are drawn together: what fits into a core's cache


def shapes(
    *,
    train: int = 4_000,
    validation: int = 1_000,
    test: int = 1_000,
    size: int = 32,
    channels: int = 3,
    classes: int = 10,
    seed: int = 0,
    augment: Sequence[Augment] | Augment = (),
) -> Data:
    """Generated images of ten figures: circle, ring, crescent, half, triangle, square, cross, star, heart, arrow.

    Colours, place, size, angle, background, noise and small distractors are random, so that a small network
    has to learn and a bad learning rate shows. Images (N, channels, size, size) uint8, equally many of each
    class. Beyond ten, a class is a figure in one of ten colours (up to 100; only with three channels), then
    also with one of four fills. The same `seed` gives the same images; one part does not depend on the size
    of another.

    >>> shapes(train=20, validation=10, test=10).classes[:3]
    ('circle', 'ring', 'crescent')
    """
    for part, count in (("train", train), ("validation", validation), ("test", test)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise HarnessError(f"shapes: {part} must be a count of at least 1, not {count!r}.")
    if channels not in (1, 3):
        raise HarnessError(f"shapes: channels must be 1 or 3, not {channels!r}.")
    if not 2 <= classes <= most_classes(channels):
        raise HarnessError(
            f"shapes: with channels={channels} there are 2 to {most_classes(channels)} classes, not {classes!r}."
        )
    if size < 8:
        raise HarnessError(f"shapes: size must be at least 8 pixels, not {size}.")

    def drawn(index: int, count: int) -> Arrays:
        generator = np.random.default_rng((seed, index))
        return draw_part(generator, count, size=size, channels=channels, classes=classes)

    return build_data(
        name="shapes",
        train=drawn(0, train),
        validation=drawn(1, validation),
        load_test=lambda: drawn(2, test),
        classes=class_names(classes, channels),
        augment=augment,
        normalize=True,
        description={"test": test, "split": "generated", "split_seed": seed},
    )


def most_classes(channels: int) -> int:
    """How many classes there can be: figures by fills, and with colour by hues."""
    return len(FIGURES) * len(FILLS) * (len(HUES) if channels == 3 else 1)


def class_names(classes: int, channels: int) -> tuple[str, ...]:
    """The figures; where they do not suffice, figures by hue, and then by fill."""
    if classes <= len(FIGURES):
        return tuple(FIGURES)[:classes]
    hues = HUES if channels == 3 else ("",)
    words = [(fill, hue, figure) for fill in FILLS for hue in hues for figure in FIGURES]
    return tuple(" ".join(word for word in name if word not in ("", "plain")) for name in words[:classes])


def draw_part(generator: np.random.Generator, count: int, *, size: int, channels: int, classes: int) -> Arrays:
    """One part: `count` images, the classes as equal in number as can be, in random order."""
    targets: Indices = np.arange(count) * classes // count  # sorted, so that a chunk holds few figures
    images = np.empty((count, size, size, channels), dtype=np.uint8)
    for start in range(0, count, CHUNK):
        chunk = slice(start, start + CHUNK)
        images[chunk] = draw_images(generator, targets[chunk], size=size, channels=channels, classes=classes)
    order = generator.permutation(count)
    return Arrays(inputs=torch.from_numpy(images[order]).permute(0, 3, 1, 2), targets=torch.from_numpy(targets[order]))


def draw_images(
    generator: np.random.Generator, targets: Indices, *, size: int, channels: int, classes: int
) -> npt.NDArray[np.uint8]:
    """Images (N, size, size, channels) of the classes `targets` (N,)."""
    count = len(targets)
    scale = np.float32(size / 32)

    def uniform(low: float, high: float) -> Array:
        return low + (high - low) * generator.random(count, dtype=np.float32)

    def paint(value: Array, saturation: Array, hue: Array) -> Array:
        return colours(hue, saturation, value) if channels == 3 else value[:, None]

    hue = uniform(0, 360)
    ground_hue = hue + uniform(60, 300)
    fill: Indices = generator.integers(len(FILLS), size=count)
    on_light = generator.random(count) < 0.15
    if classes > len(FIGURES):
        hues = np.array(list(HUES.values()) if channels == 3 else [0], dtype=np.float32)
        hue = hues[targets // len(FIGURES) % len(hues)] + uniform(-6, 6)
        fill = targets // (len(FIGURES) * len(hues))
        on_light[:] = False  # a dark yellow would be no yellow
    ground = paint(np.where(on_light, uniform(0.7, 0.95), uniform(0.1, 0.4)), uniform(0.2, 0.7), ground_hue)
    colour = paint(np.where(on_light, uniform(0.1, 0.35), uniform(0.75, 1)), uniform(0.55, 1), hue)

    image = background(generator, ground, size)
    for _ in range(2):
        bit(generator, image, paint(uniform(0.2, 0.7), uniform(0.2, 0.9), uniform(0, 360)), scale)
    radius = uniform(8, 13) * scale
    reach = np.float32(size / 2) - np.float32(0.85) * radius
    x, y = (np.float32(size / 2) + uniform(-1, 1) * reach for _ in range(2))
    u, v = place(size, x, y, radius, uniform(-0.5, 0.5))
    covered = cover(per_kind(list(FIGURES.values()), targets % len(FIGURES), u, v), radius)
    blend(image, colour, covered)
    marked = np.clip(per_kind(list(FILLS.values()), fill, u, v) * 3, 0, 1) * covered
    blend(image, colour * np.float32(0.6), marked)
    noise = generator.random(image.shape, dtype=np.float32) - np.float32(0.5)
    image += noise * uniform(0.05, 0.3)[:, None, None, None]
    pixels: npt.NDArray[np.uint8] = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    return pixels.transpose(0, 2, 3, 1)


def per_kind(formulas: Sequence[Callable[[Array, Array], Array]], kinds: Indices, u: Array, v: Array) -> Array:
    """For each image the formula of its kind (N,), at its own coordinates (N, size, size)."""
    values = np.empty_like(u)
    for kind in np.unique(kinds):
        chosen = kinds == kind
        values[chosen] = formulas[kind](u[chosen], v[chosen])
    return values


def background(generator: np.random.Generator, colour: Array, size: int) -> Array:
    """Soft waves of light across a colour (N, C): images (N, C, size, size)."""
    count, channels = colour.shape
    axis = (np.arange(size) / size).astype(np.float32)
    rate = generator.uniform(1, 9, (2, count, channels, 1)).astype(np.float32)
    phase = generator.uniform(0, 6.28, (2, count, channels, 1)).astype(np.float32)
    across, down = np.sin(axis * rate + phase) * np.float32(0.07)  # (N, C, size) each
    image: Array = colour[:, :, None, None] + across[:, :, None, :] + down[:, :, :, None]
    return image


def bit(generator: np.random.Generator, image: Array, colour: Array, scale: np.float32) -> None:
    """Paints a small bar or block, of any angle and anywhere, into each image."""
    count, size = len(image), image.shape[-1]
    x, y, angle = generator.random((3, count), dtype=np.float32) * np.array([[size], [size], [3.14]], np.float32)
    radius = generator.uniform(1.2, 4, count).astype(np.float32) * scale
    u, v = place(size, x, y, radius, angle)
    width = np.minimum(1, generator.uniform(0.9, 1.6, count).astype(np.float32) * scale / radius)
    blend(image, colour, cover(np.maximum(np.abs(u) - 1, np.abs(v) - width[:, None, None]), radius))


def demo_shapes(*, size: int, channels: int, classes: int, augment: Sequence[Augment] | Augment) -> Data:
    """The small stand-in under `--demo` for images of this size, of as many classes as can be drawn."""
    drawn = max(2, min(classes, most_classes(channels)))
    return shapes(
        train=2_000,
        validation=500,
        test=500,
        size=size,
        channels=channels,
        classes=drawn,
        augment=augment,
    )
