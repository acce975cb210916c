"""The style of all pictures. They are SVG in the page's light or dark colours, and PNG for papers."""

import functools
import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ParamSpec

import matplotlib
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#1c2733", "#5f6b78", "#d3d9df", "#fefefe"  # in the page, variables of its style sheet
VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)", PAPER: "var(--paper)"}
# Okabe and Ito (2008): told apart by people with any kind of colour vision, on white and on black.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"
SERIES = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)
DASHES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (8, 3)), (0, (2, 2)))  # beside the colour
GOOD = LinearSegmentedColormap.from_list("good", ["#a8b3bd", SKY, BLUE])  # from poor to good, on white and on black
FEW = 8  # epochs that are all numbered on an axis

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}
BACKED = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.8, "alpha": 0.8}  # a text that lies over lines
DPI = 200
Drawing = ParamSpec("Drawing")


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """A figure. `name` is the name of its file; `caption` says in a sentence or two what it shows.

    `hints` are texts that appear under the pointer, by the id (`set_gid`) of a part of the figure.
    """

    name: str
    title: str
    caption: str
    figure: Figure
    hints: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def svg(self) -> str:
        """An `<svg>` element for the page. Its `--inches` tell the style sheet how wide it should be."""
        text = io.StringIO()
        with matplotlib.rc_context({**STYLE, "svg.hashsalt": self.name}):
            self.figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        drawn = text.getvalue()
        drawn = drawn[drawn.index("<svg") :]
        for colour, variable in VARIABLES.items():
            drawn = drawn.replace(colour, variable)
        # Several pictures are on one page: their ids must differ.
        drawn = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{self.name}-", drawn)
        drawn = re.sub(r'<svg ([^>]*?)height="[\d.]+pt" ?([^>]*?)width="([\d.]+)pt"', r"<svg \1\2", drawn, count=1)
        drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
        for part, hint in self.hints.items():
            opening = f'<g id="{self.name}-{part}">'
            drawn = drawn.replace(opening, f"{opening}<title>{html.escape(hint)}</title>")
        label = html.escape(f"{self.title}. {self.caption}", quote=True)
        inches = f"--inches: {self.figure.get_figwidth():g}"
        return drawn.replace("<svg ", f'<svg role="img" aria-label="{label}" style="{inches}" ', 1)

    @cached_property
    def png(self) -> bytes:
        """The same on white, for papers."""
        content = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            self.figure.savefig(content, format="png", dpi=DPI, facecolor="white")
        return content.getvalue()


def in_style(draw: Callable[Drawing, Picture]) -> Callable[Drawing, Picture]:
    """Draws in this style, independent of the caller's settings of matplotlib, and lays it out once for both files."""

    @functools.wraps(draw)
    def drawn(*args: Drawing.args, **kwargs: Drawing.kwargs) -> Picture:
        with matplotlib.rc_context(STYLE):
            picture = draw(*args, **kwargs)
            picture.figure.draw_without_rendering()
            picture.figure.set_layout_engine("none")  # else each file would look for the layout again
            return picture

    return drawn


def figure(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure of this size in inches, and its axes. It is not registered with pyplot."""
    drawn = Figure(figsize=(width, height), layout="constrained")
    return drawn, drawn.subplots(rows, columns, **options)


def number_epochs(axes: Any, last: int) -> None:
    """Marks an axis of epochs, counted from 1, at whole numbers."""
    axes.set_xlabel("epoch")
    axes.set_xlim(0.5, last + 0.5)
    if last <= FEW:
        axes.set_xticks(range(1, last + 1))
    else:
        axes.xaxis.get_major_locator().set_params(integer=True)


def shown(value: Any) -> str:
    """A value with few digits.

    >>> shown(0.017782794), shown(3), shown("adam")
    ('0.0178', '3', 'adam')
    """
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def listed(items: Sequence[str]) -> str:
    """
    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
