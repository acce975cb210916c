"""The tree of epochs: every trained epoch, under `paths/`, and the states that later runs start from.

A node is an epoch. Its name is a digest of its parent's name and of its knobs: the optimizer options with which it
was trained, most of all the learning rate. The root's name is the recipe's digest. On disk:

    paths/<recipe>/recipe.json             what the recipe is made of
    paths/<recipe>/<node>.json             the epoch's metrics, its parent and who trained it
    paths/<recipe>/states/<node>-<sum>.state      the state after it, a checkpoint; <sum> is its checksum
    paths/<recipe>/states/<node>-<sum>.rolling    the same for an unfinished run, replaced by its next one

A damaged file is deleted, and the epoch is trained again, from its deepest ancestor that has a state.
"""

import fcntl
import hashlib
import io
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from harness.files import link_whole, write_whole
from harness.training.recipe import Recipe, digest_of
from harness.training.state import Knobs

SUFFIXES = (".state", ".rolling")


@dataclass(frozen=True, kw_only=True)
class Node:
    """One trained epoch."""

    name: str
    parent: str
    epoch: int
    knobs: Knobs
    metrics: dict[str, float]
    epoch_seconds: float
    run_id: str  # of the run that trained it
    knobs_after: Knobs | None = None  # if the optimizer itself changed its options during the epoch
    diagnostics: dict[str, float] = field(default_factory=dict)  # see `training/diagnostics.py`; older epochs have none
    class_accuracy: list[float | None] = field(default_factory=list)


def child_name(parent: str, knobs: Knobs) -> str:
    """The name of the epoch after `parent` that is trained with these knobs."""
    return digest_of([parent, knobs])


class Tree:
    """The nodes and states of one recipe. Several processes can read and write it at once."""

    def __init__(self, folder: Path, recipe: Recipe, *, budget_bytes: int) -> None:
        self.root = recipe.digest
        self.folder = folder / self.root
        self.budget_bytes = budget_bytes
        self.states = self.folder / "states"
        self.states.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "recipe.json").exists():
            write_whole(self.folder / "recipe.json", json.dumps(recipe.parts(), indent=1))
        self._claims = os.open(folder / "claims", os.O_RDWR | os.O_CREAT, 0o644)

    def close(self) -> None:
        """Releases every claim."""
        os.close(self._claims)

    def find(self, name: str) -> Node | None:
        """The node of this name, if its epoch was trained and its record is intact."""
        path = self.folder / f"{name}.json"
        try:
            node = read_node(path.read_bytes(), name)
        except FileNotFoundError:
            return None
        if node is None:
            path.unlink(missing_ok=True)
        return node

    def record(self, node: Node) -> None:
        """Stores a trained epoch."""
        record = json.loads(json.dumps(asdict(node)))
        checksum = digest_of(record)
        write_whole(self.folder / f"{node.name}.json", json.dumps(record | {"checksum": checksum}))

    def claim(self, name: str) -> bool:
        """Claims an epoch for training by this process; False while another one trains it.

        A claim is a lock on one byte of a file. When a process dies, its claims are free at once.
        """
        try:
            fcntl.lockf(self._claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _offset(name))
        except (BlockingIOError, PermissionError):
            return False
        return True

    def release(self, name: str) -> None:
        """Releases a claim."""
        fcntl.lockf(self._claims, fcntl.LOCK_UN, 1, _offset(name))

    def load_state(self, name: str) -> dict[str, Any] | None:
        """The state after an epoch, or None. One that fails its checksum is removed."""
        for path in self._states(name):
            try:
                content = path.read_bytes()
            except FileNotFoundError:  # another process deleted it
                continue
            with suppress(FileNotFoundError, PermissionError):  # another user's file
                os.utime(path)  # the least recently used states are deleted first
            state = read_state(content, path.name)
            if state is not None:
                return state
            path.unlink(missing_ok=True)
        return None

    def drop_state(self, name: str) -> None:
        """Removes the states after an epoch: they do not fit the model or the optimizer."""
        for path in self._states(name):
            path.unlink(missing_ok=True)

    def add_state(self, name: str, content: bytes, checksum: str, *, kept: bool, source: Path | None = None) -> None:
        """Keeps a packed checkpoint as the state after an epoch; `source` is a file that already holds it."""
        if len(content) > self.budget_bytes:
            return
        path = self.states / state_name(name, checksum, kept=kept)
        if source is not None:
            link_whole(source, path)
        else:
            write_whole(path, content)
        self._keep_budget()

    def keep_state(self, name: str) -> None:
        """Makes a rolling state a lasting one."""
        for path in self._states(name):
            if path.suffix == ".rolling":
                with suppress(FileNotFoundError):  # another process renamed or deleted it
                    link_whole(path, path.with_suffix(".state"))
                    path.unlink(missing_ok=True)

    def drop_rolling(self, name: str) -> None:
        """Removes a rolling state that a later one of its run replaced."""
        for path in self._states(name):
            if path.suffix == ".rolling":
                path.unlink(missing_ok=True)

    def news(self) -> str | None:
        """A message about the place of the tree, or None; each is returned once."""
        return None

    def _states(self, name: str) -> list[Path]:
        return sorted(
            (path for path in self.states.glob(f"{name}-*") if path.suffix in SUFFIXES),
            key=lambda path: SUFFIXES.index(path.suffix),
        )

    def _keep_budget(self) -> None:
        files = sorted(state_files(self.folder.parent), key=lambda found: found[1].st_mtime_ns)
        total = sum(stat.st_size for _, stat in files)
        for path, stat in files[:-1]:
            if total <= self.budget_bytes:
                return
            path.unlink(missing_ok=True)
            total -= stat.st_size


def read_node(content: bytes, name: str) -> Node | None:
    """The node in a record; None if it is damaged, or has another name."""
    try:
        record = json.loads(content)
        checksum = record.pop("checksum")
        return Node(**record) if checksum == digest_of(record) and record["name"] == name else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def read_state(content: bytes, file_name: str) -> dict[str, Any] | None:
    """The state in a file of this name; None if its checksum is wrong, or if it is not a state."""
    if hashlib.sha256(content).hexdigest()[:16] != file_name.rpartition(".")[0].partition("-")[2]:
        return None
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        is_state = isinstance(loaded["state_dict"], dict)
    except Exception:  # the right checksum does not mean that it is a state
        return None
    return loaded if is_state else None


def state_name(name: str, checksum: str, *, kept: bool) -> str:
    """The file name of the state after an epoch."""
    return f"{name}-{checksum}{'.state' if kept else '.rolling'}"


def state_files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The state files of all recipes under `paths/`, with their sizes and times of last use."""
    for path in folder.glob("*/states/*-*"):
        if path.suffix in SUFFIXES:
            try:
                yield path, path.stat()
            except FileNotFoundError:
                continue


def _offset(name: str) -> int:
    return int(name, 16) >> 2  # file offsets have 63 bits
