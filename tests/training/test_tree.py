"""The tree on disk: what is damaged is dropped, a claim is one process's, the budget holds."""

import json
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from states import has_state

from harness.training.checkpoint import pack
from harness.training.recipe import Recipe
from harness.training.tree import Node, Tree, child_name, state_files

RECIPE = Recipe(code={"Net.model()": "1"}, values={"lr": "0.1"}, rest={"seed": "0"})
KNOBS = [{"lr": 0.1, "momentum": 0.9}]
NAME = child_name(RECIPE.digest, KNOBS)


def node(name: str = NAME, **changes: Any) -> Node:
    return Node(**{
        "name": name, "parent": RECIPE.digest, "epoch": 0, "knobs": KNOBS, "epoch_seconds": 1.5,
        "metrics": {"val_loss": 0.1 + 0.2}, "run_id": "run", **changes,
    })  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    tree = Tree(tmp_path / "paths", RECIPE, budget_bytes=10**6)
    yield tree
    tree.close()


def add(tree: Tree, name: str = NAME, *, kept: bool = True, size: int = 100) -> Path:
    """A state of about this many bytes."""
    content, checksum = pack({"state_dict": {"weight": torch.zeros(size // 4)}, "name": name})
    tree.add_state(name, content, checksum, kept=kept)
    return tree.states / f"{name}-{checksum}{'.state' if kept else '.rolling'}"


def test_a_recorded_epoch_is_found_as_it_was(tree: Tree, tmp_path: Path) -> None:
    assert tree.find(NAME) is None
    recorded = node(metrics={"val_loss": 1 / 3, "train_loss": 1e-320})
    tree.record(recorded)
    again = Tree(tmp_path / "paths", RECIPE, budget_bytes=0)
    assert again.find(NAME) == tree.find(NAME) == recorded
    again.close()
    assert json.loads((tree.folder / "recipe.json").read_text()) == RECIPE.parts()


def test_a_loss_that_is_not_finite_can_be_recorded(tree: Tree) -> None:
    tree.record(node(metrics={"val_loss": float("nan"), "train_loss": float("inf")}))
    found = tree.find(NAME)
    assert found is not None and str(found.metrics) == "{'val_loss': nan, 'train_loss': inf}"


@pytest.mark.parametrize("content", (
    b"", b"{", b"[]", b"null", b"{}", b"\xff\xfe", b'{"checksum": "0"}',
))  # fmt: skip
def test_a_damaged_record_is_dropped(tree: Tree, content: bytes) -> None:
    tree.record(node())
    path = tree.folder / f"{NAME}.json"
    path.write_bytes(content)
    assert tree.find(NAME) is None
    assert not path.exists()


def test_any_flipped_byte_of_a_record_is_noticed(tree: Tree) -> None:
    tree.record(node())
    path = tree.folder / f"{NAME}.json"
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert tree.find(NAME) in (None, node()), f"byte {place}"


def test_a_record_under_another_name_is_dropped(tree: Tree) -> None:
    tree.record(node())
    os.rename(tree.folder / f"{NAME}.json", tree.folder / "0123.json")
    assert tree.find("0123") is None


def test_a_state_comes_back_whole(tree: Tree) -> None:
    assert tree.load_state(NAME) is None and not has_state(tree, NAME)
    add(tree, size=400)
    loaded = tree.load_state(NAME)
    assert loaded is not None and loaded["state_dict"]["weight"].shape == (100,)
    assert has_state(tree, NAME, kept=True)


@pytest.mark.parametrize("harm", ("a flipped bit", "cut off", "emptied"))
def test_a_damaged_state_is_dropped(tree: Tree, harm: str) -> None:
    path = add(tree)
    content = path.read_bytes()
    places = range(0, len(content), 37)
    for place in places if harm != "emptied" else (0,):
        flipped = content[:place] + bytes([content[place] ^ 8]) + content[place + 1 :]
        path.write_bytes({"a flipped bit": flipped, "cut off": content[:place], "emptied": b""}[harm])
        assert tree.load_state(NAME) is None
        assert not path.exists()


def test_a_damaged_state_does_not_hide_a_good_one(tree: Tree) -> None:
    rolling, kept = add(tree, kept=False, size=100), add(tree, size=200)
    kept.write_bytes(b"damaged")
    loaded = tree.load_state(NAME)
    assert loaded is not None and loaded["state_dict"]["weight"].shape == (25,)
    assert rolling.exists() and not kept.exists()


def test_a_rolling_state_goes_unless_it_is_kept(tree: Tree) -> None:
    add(tree, "a" * 16, kept=False)
    add(tree, "b" * 16, kept=False)
    assert has_state(tree, "a" * 16) and not has_state(tree, "a" * 16, kept=True)
    tree.keep_state("a" * 16)
    for name in ("a" * 16, "b" * 16):
        tree.drop_rolling(name)
    assert has_state(tree, "a" * 16, kept=True) and tree.load_state("a" * 16) is not None
    assert not has_state(tree, "b" * 16)
    assert [path.suffix for path, _ in state_files(tree.folder.parent)] == [".state"]
    tree.keep_state("b" * 16)  # gone: nothing to keep
    assert not has_state(tree, "b" * 16)


def test_the_budget_drops_the_least_recently_used(tmp_path: Path) -> None:
    size = len(pack({"state_dict": {"weight": torch.zeros(1000)}, "name": "a" * 16})[0])
    tree = Tree(tmp_path / "paths", RECIPE, budget_bytes=3 * size + size // 2)
    names = [letter * 16 for letter in "abcd"]
    for age, name in enumerate(names[:3]):
        path = add(tree, name, size=4000)
        os.utime(path, (1000 + age, 1000 + age))
    assert tree.load_state(names[0]) is not None, "this one was used"
    add(tree, names[3], size=4000)
    assert [has_state(tree, name) for name in names] == [True, False, True, True]
    other = Tree(tmp_path / "paths", Recipe(code={}, values={}, rest={}), budget_bytes=2 * size)
    add(other, "e" * 16, size=4000)
    assert sum(stat.st_size for _, stat in state_files(tmp_path / "paths")) <= 2 * size, "of all recipes together"
    assert has_state(other, "e" * 16)
    add(other, "f" * 16, size=40_000)
    assert not has_state(other, "f" * 16), "larger than the budget"
    assert has_state(other, "e" * 16)
    tree.close()
    other.close()


def _claim(folder: Path, told: Any, end: Any) -> None:
    tree = Tree(folder, RECIPE, budget_bytes=0)
    told.put([tree.claim("a" * 16), tree.claim("b" * 16)])
    end.wait(30)
    os._exit(1)  # dies, and gives nothing back


def test_a_claim_is_one_processs_until_it_dies(tree: Tree, tmp_path: Path) -> None:
    assert tree.claim("a" * 16)
    context = multiprocessing.get_context("fork")
    told, end = context.Queue(), context.Event()
    process = context.Process(target=_claim, args=(tmp_path / "paths", told, end))
    process.start()
    assert told.get(timeout=30) == [False, True]
    assert not tree.claim("b" * 16)
    assert tree.claim("c" * 16)
    end.set()
    process.join(60)
    assert tree.claim("b" * 16), "free at once"


def _find_and_claim(folder: Path, told: Any) -> None:
    tree = Tree(folder, RECIPE, budget_bytes=0)
    told.put(tree.claim("a" * 16))
    tree.close()


def test_a_claim_is_given_back(tree: Tree, tmp_path: Path) -> None:
    assert tree.claim("a" * 16)
    tree.release("a" * 16)
    context = multiprocessing.get_context("fork")
    told = context.Queue()
    process = context.Process(target=_find_and_claim, args=(tmp_path / "paths", told))
    process.start()
    assert told.get(timeout=30)
    process.join(60)
