"""Small pictures of shapes, computed for many images at once from signed distances.

A distance is negative inside a figure and positive outside. A figure's own coordinates u and v are rotated
and scaled so that it fits into the unit circle; union is the minimum of two distances, intersection the
maximum.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


def greater(a: Array, b: Array) -> Array:
    larger: Array = np.maximum(a, b)
    return larger


def smaller(a: Array, b: Array) -> Array:
    less: Array = np.minimum(a, b)
    return less


def length(u: Array, v: Array) -> Array:
    found: Array = np.hypot(u, v)
    return found


def circle(u: Array, v: Array) -> Array:
    return length(u, v) - np.float32(0.85)


def ring(u: Array, v: Array) -> Array:
    distance: Array = np.abs(length(u, v) - np.float32(0.7)) - np.float32(0.2)
    return distance


def crescent(u: Array, v: Array) -> Array:
    return greater(length(u, v) - np.float32(0.95), np.float32(0.75) - length(u - np.float32(0.45), v))


def half(u: Array, v: Array) -> Array:
    return greater(length(u, v + np.float32(0.4)) - np.float32(0.98), -v - np.float32(0.4))


def square(u: Array, v: Array) -> Array:
    return greater(np.abs(u), np.abs(v)) - np.float32(0.72)


def triangle(u: Array, v: Array) -> Array:
    slope = np.float32(np.sqrt(3) / 2) * np.abs(u)
    return greater(slope + np.float32(0.5) * v, -v) - np.float32(0.5)


def cross(u: Array, v: Array) -> Array:
    a, b = np.abs(u), np.abs(v)
    return greater(np.minimum(a, b) - np.float32(0.27), np.maximum(a, b) - np.float32(0.92))


def star(u: Array, v: Array) -> Array:
    """A five-pointed star: the points that are outside of at most one side of a pentagon."""
    angles = np.arange(5) * (2 * np.pi / 5) + np.pi / 2
    first = np.full_like(u, -9)
    second = first
    for x, y in zip(np.cos(angles), np.sin(angles), strict=True):
        side = np.float32(x) * u + np.float32(y) * v
        first, second = np.maximum(first, side), np.maximum(second, np.minimum(first, side))
    return second - np.float32(0.34)


def heart(u: Array, v: Array) -> Array:
    """Two discs on the upper sides of a square that stands on its corner."""
    a = np.abs(u)
    lobe = length(a - np.float32(0.41), v + np.float32(0.31)) - np.float32(0.58)
    corner = (a + np.abs(v - np.float32(0.1)) - np.float32(0.82)) * np.float32(0.7071)
    return smaller(lobe, corner)


def arrow(u: Array, v: Array) -> Array:
    head = np.maximum((np.abs(v) + u - np.float32(0.95)) * np.float32(0.7071), np.float32(0.1) - u)
    shaft = np.maximum(np.abs(v) - np.float32(0.22), np.abs(u + np.float32(0.35)) - np.float32(0.6))
    return smaller(head, shaft)


FIGURES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": circle,
    "ring": ring,
    "crescent": crescent,
    "half": half,
    "triangle": triangle,
    "square": square,
    "cross": cross,
    "star": star,
    "heart": heart,
    "arrow": arrow,
}

FILLS: dict[str, Callable[[Array, Array], Array]] = {  # positive where the figure shows its second colour
    "plain": lambda u, v: np.full_like(u, -1),
    "striped": lambda u, v: np.sin(np.float32(9) * (u + np.float32(0.3) * v)),
    "chequered": lambda u, v: np.sin(np.float32(6) * u) * np.sin(np.float32(6) * v),
    "two-tone": lambda u, v: u - v,
}

HUES = {  # degrees on the colour wheel
    "red": 0,
    "orange": 30,
    "yellow": 56,
    "lime": 84,
    "green": 130,
    "teal": 170,
    "azure": 204,
    "blue": 236,
    "purple": 276,
    "pink": 322,
}


def place(size: int, x: Array, y: Array, radius: Array, angle: Array) -> tuple[Array, Array]:
    """A figure's own coordinates u, v (N, size, size) of the pixels, given its place in pixels (N,)."""
    axis = np.arange(size, dtype=np.float32) + np.float32(0.5)
    cos, sin = (np.cos(angle) / radius)[:, None, None], (np.sin(angle) / radius)[:, None, None]
    right, down = (axis - x[:, None])[:, None, :], (axis - y[:, None])[:, :, None]
    return cos * right + sin * down, cos * down - sin * right


def cover(distance: Array, radius: Array) -> Array:
    """How much of each pixel (N, size, size) a figure covers: a soft edge one pixel wide."""
    covered: Array = np.clip(np.float32(0.5) - distance * radius[:, None, None], 0, 1)
    return covered


def blend(image: Array, colour: Array, covered: Array) -> None:
    """Paints a colour (N, C) into images (N, C, size, size), as far as each pixel is covered (N, size, size)."""
    image += (colour[:, :, None, None] - image) * covered[:, None]


def colours(hue: Array, saturation: Array, value: Array) -> Array:
    """Hue in degrees, saturation and value in 0..1 (N,) as red, green, blue (N, 3) in 0..1."""
    steps = (np.array([5, 3, 1], dtype=np.float32) + (hue / np.float32(60))[:, None]) % np.float32(6)
    wave: Array = np.clip(np.minimum(steps, np.float32(4) - steps), 0, 1)
    return value[:, None] * (1 - saturation[:, None] * wave)
