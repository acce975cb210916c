"""Draws the tree of epochs: which runs share a path until their learning rates differ, and what that saved."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.reporting.pages.drawing import GRID, INK, MUTED, SERIES, Picture, figure, in_style, number_epochs, shown
from harness.reporting.pages.ways import count_changes
from harness.tracking.runs import RunRecord

MOST_LANES = 48
MOST_NAMES = 4  # runs named at the end of a path


@dataclass(kw_only=True, eq=False)
class Branch:
    """Consecutive epochs that the same runs share. `start` is the first of them, from 0."""

    start: int
    rates: list[float]
    runs: list[RunRecord]
    children: list["Branch"] = field(default_factory=list)
    changes: int = 0  # of the learning rate, up to its first epoch

    @property
    def stop(self) -> int:
        return self.start + len(self.rates)


@dataclass(frozen=True, kw_only=True, eq=False)
class Trees:
    """The paths of some runs: a tree for each recipe, the tree with most sharing first."""

    roots: list[Branch]

    @property
    def asked(self) -> int:
        """The number of epochs of all runs."""
        return sum(len(branch.rates) * len(branch.runs) for branch in self._branches())

    @property
    def different(self) -> int:
        """The number of different epochs: the others did not have to be trained."""
        return sum(len(branch.rates) for branch in self._branches())

    def _branches(self) -> Iterator[Branch]:
        waiting = list(self.roots)
        while waiting:
            branch = waiting.pop()
            yield branch
            waiting += branch.children


def build_trees(paths: Sequence[tuple[RunRecord, Sequence[float]]]) -> Trees:
    """The trees of runs. Each run is given with the learning rate of every epoch."""
    by_recipe: dict[str, list[tuple[RunRecord, Sequence[float]]]] = {}
    for record, rates in paths:
        if rates:
            by_recipe.setdefault(record.recipe or record.run_id, []).append((record, rates))
    roots = [branch for members in by_recipe.values() for branch in _grow(members, 0)]
    return Trees(roots=sorted(roots, key=lambda root: -_saved(root)))


def _grow(
    members: Sequence[tuple[RunRecord, Sequence[float]]], start: int, changes: int = 0, before: float | None = None
) -> list[Branch]:
    """The branches that begin at epoch `start`: runs with the same next learning rate share one."""
    groups: dict[float, list[tuple[RunRecord, Sequence[float]]]] = {}
    for record, rates in members:
        if len(rates) > start:
            groups.setdefault(rates[start], []).append((record, rates))
    grown = []
    for group in groups.values():
        stop = start + 1
        longest = max(len(rates) for _, rates in group)
        while stop < longest and len({rates[stop] if len(rates) > stop else None for _, rates in group}) == 1:
            stop += 1
        own = list(group[0][1][start:stop])
        first = changes + (before is not None and own[0] != before)
        branch = Branch(start=start, rates=own, runs=[record for record, _ in group], changes=first)
        branch.children = _grow(group, stop, first + count_changes(own), own[-1])
        grown.append(branch)
    return grown


def _saved(branch: Branch) -> int:
    return len(branch.rates) * (len(branch.runs) - 1) + sum(_saved(child) for child in branch.children)


def _leaves(branch: Branch) -> int:
    """The number of lanes of a branch, with those of its children."""
    if not branch.children:
        return 1
    return bool(_ends_at(branch)) + sum(_leaves(child) for child in branch.children)


def _ends_at(branch: Branch) -> list[RunRecord]:
    """The runs that end where the branch does."""
    going_on = {record.run_id for child in branch.children for record in child.runs}
    return [record for record in branch.runs if record.run_id not in going_on]


@in_style
def draw_trees(trees: Trees, told_apart: Mapping[str, Sequence[str]]) -> Picture:
    """Each line is a series of epochs. The more runs share it, the thicker it is. It forks where learning rates differ.

    `told_apart` are the values that distinguish each recipe, in words.
    """
    shown_roots: list[Branch] = []
    lanes = 0
    for root in trees.roots:
        if shown_roots and lanes + _leaves(root) > MOST_LANES:
            break
        shown_roots.append(root)
        lanes += _leaves(root) + 1
    lanes = min(lanes, 2 * MOST_LANES)
    drawn, panel = figure(11, 1.0 + 0.24 * lanes)
    hints: dict[str, str] = {}
    top, last = 0.0, 1
    for root in shown_roots:
        names = ", ".join(told_apart.get(root.runs[0].recipe, ()))
        panel.annotate(names, (1, top), (-2, 0), textcoords="offset points", color=MUTED, fontsize=8.5, va="center")
        last = max(last, _draw(panel, root, top - 1, hints))
        top -= _leaves(root) + 1
    number_epochs(panel, last)
    panel.set_xlim(0.3, last + max(2.0, 0.32 * last))  # room for the names
    panel.set_xticks([tick for tick in panel.get_xticks() if 1 <= tick <= last])
    panel.set_ylim(top + 0.4, 0.6)
    panel.set_yticks([])
    panel.grid(axis="y", visible=False)
    panel.spines[["left"]].set_visible(False)
    saved = trees.asked - trees.different
    left_out = len(trees.roots) - len(shown_roots)
    more = f" {left_out} recipes that share less are left out." if left_out else ""
    return Picture(
        name="tree-of-epochs",
        title="The tree of epochs",
        caption=f"{trees.asked:,} epochs in all runs, of which {trees.different:,} differ: {saved:,} did not have to "
        "be trained. Each line is a series of epochs. The more runs share it, the thicker it is. It forks where their "
        "learning rates differ, and its colour changes where the learning rate changes. At the ends are the trials "
        "and their values." + more,
        figure=drawn,
        hints=hints,
    )


def _draw(panel: Any, branch: Branch, lane: float, hints: dict[str, str]) -> int:
    """Draws a branch at a lane and its children below; the last epoch among them."""
    width = 1.4 + 1.3 * min(len(branch.runs) - 1, 5)
    name = f"branch-{len(hints)}"
    for start, stop, changes in _stretches(branch):
        ends = [start + (0.5 if start else 0.6), stop + 0.5]
        colour = SERIES[changes % len(SERIES)]
        (line,) = panel.plot(ends, [lane, lane], color=colour, linewidth=width, solid_capstyle="butt", zorder=3)
        line.set_gid(f"{name}-{start}")
    line.set_gid(name)
    first, final = branch.start + 1, branch.stop
    hints[name] = (
        f"epochs {first} to {final}, learning rate {', '.join(map(shown, dict.fromkeys(branch.rates)))}: "
        f"{', '.join(record.name for record in branch.runs)}"
    )
    below, last = lane, branch.stop
    ended = _ends_at(branch)
    if ended:
        panel.annotate(
            _names(ended), (branch.stop + 0.5, lane), (6, 0), textcoords="offset points", va="center", fontsize=8,
            color=INK, zorder=6,
        )  # fmt: skip
        below -= bool(branch.children)
    for number, child in enumerate(branch.children):
        if below != lane or number:
            panel.plot([branch.stop + 0.5] * 2, [lane, below], color=GRID, linewidth=1.2, zorder=2)
        last = max(last, _draw(panel, child, below, hints))
        below -= _leaves(child)
    return last


def _stretches(branch: Branch) -> list[tuple[int, int, int]]:
    """The first and the last epoch of each learning rate, and the changes before it; one where all epochs differ."""
    if count_changes(branch.rates) > len(branch.rates) // 2:
        return [(branch.start, branch.stop, branch.changes)]
    edges = [i for i in range(1, len(branch.rates)) if branch.rates[i] != branch.rates[i - 1]]
    starts, stops = [0, *edges], [*edges, len(branch.rates)]
    return [
        (branch.start + start, branch.start + stop, branch.changes + number)
        for number, (start, stop) in enumerate(zip(starts, stops, strict=True))
    ]


def _names(records: Sequence[RunRecord]) -> str:
    """The runs that end on one path, with what they reached."""
    names = [record.name.removeprefix("trial-") for record in records[:MOST_NAMES]]
    more = f" and {len(records) - MOST_NAMES} more" if len(records) > MOST_NAMES else ""
    value = next((f"  {record.value:.4f}" for record in records if record.value is not None), "")
    return f"{', '.join(names)}{more}{value}"
