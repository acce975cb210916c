"""The tree at an address: whole where it was put, intact where it is used, one node's at a time."""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from buckets import KEYS
from running import wait_until

from harness import objects
from harness.errors import HarnessError
from harness.objects import Away, Objects, check_address, open_objects
from harness.training import remote
from harness.training.checkpoint import pack
from harness.training.recipe import Recipe
from harness.training.remote import RemoteTree, node_folder, open_tree
from harness.training.tree import Node, Tree, child_name

RECIPE = Recipe(code={"Net.model()": "1"}, values={"lr": "0.1"}, rest={"seed": "0"})
KNOBS = [{"lr": 0.1}]
NAME = child_name(RECIPE.digest, KNOBS)
NODE = Node(
    name=NAME, parent=RECIPE.digest, epoch=0, knobs=KNOBS, metrics={"val_loss": 1 / 3}, epoch_seconds=1.0, run_id="run"
)  # fmt: skip
MakeTree = Callable[..., RemoteTree]


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"memory://{tmp_path}/epochs"


@pytest.fixture
def on_node(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeTree]:
    """A tree as a run on a node sees it; each node has a cache of its own."""
    monkeypatch.setattr(remote, "LOOK_SECONDS", 0.0)
    opened: list[RemoteTree] = []

    def on_node(node: str, *, run_id: str = "", budget_bytes: int = 10**9) -> RemoteTree:
        monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / node))
        node_folder.cache_clear()
        tree = open_tree(address, RECIPE, run_id=run_id or f"run on {node}", budget_bytes=budget_bytes)
        assert isinstance(tree, RemoteTree)
        opened.append(tree)
        return tree

    yield on_node
    for tree in opened:
        tree.close()
    node_folder.cache_clear()


@pytest.fixture
def broken(address: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Makes the network to the address fail, and work again."""
    monkeypatch.setattr(objects, "AWAY_SECONDS", 0.0)
    opened, files = open_objects(address), open_objects(address)._files

    class Broken:
        def __getattr__(self, name: str) -> Any:
            def fail(*arguments: Any, **more: Any) -> None:
                raise ConnectionError("the cable is out")

            return fail

    return lambda is_broken: monkeypatch.setattr(opened, "_files", Broken() if is_broken else files)


def add(tree: Tree, name: str = NAME, *, kept: bool = True, size: int = 100) -> str:
    """Adds a state of about this many bytes; its name at the address."""
    content, checksum = pack({"state_dict": {"weight": torch.zeros(size // 4)}, "name": name})
    tree.add_state(name, content, checksum, kept=kept)
    return f"{tree.root}/states/{name}-{checksum}.{'state' if kept else 'rolling'}"


def names(address: str, folder: str = "") -> list[str]:
    return sorted(found.name for found in open_objects(address).find(folder))


def test_a_folder_is_a_tree_of_its_own(tmp_path: Path) -> None:
    tree = open_tree(tmp_path, RECIPE, run_id="run", budget_bytes=0)
    assert type(tree) is Tree and tree.news() is None
    tree.close()


def test_what_one_node_keeps_another_finds(on_node: MakeTree, address: str) -> None:
    one, two = on_node("one"), on_node("two")
    assert two.find(NAME) is None and two.load_state(NAME) is None
    state = add(one)
    one.record(NODE)
    assert names(address) == sorted([f"{RECIPE.digest}/recipe.json", f"{RECIPE.digest}/{NAME}.json", state])
    assert two.find(NAME) == NODE
    loaded = two.load_state(NAME)
    assert loaded is not None and loaded["name"] == NAME
    for name in names(address):
        open_objects(address).remove(name)
    assert two.find(NAME) == NODE and two.load_state(NAME) is not None, "it is in the node's cache"


@pytest.mark.parametrize("harm", (b"", b"{}", None))
def test_what_is_damaged_at_the_address_is_removed_and_not_used(
    on_node: MakeTree, address: str, harm: bytes | None
) -> None:
    one, two = on_node("one"), on_node("two")
    add(one)
    one.record(NODE)
    at = open_objects(address)
    for name in names(address):
        content = at.read(name)
        assert content is not None
        at.write(name, content[:-9] + bytes([content[-9] ^ 1]) + content[-8:] if harm is None else harm)
    assert two.find(NAME) is None and two.load_state(NAME) is None
    assert names(address) == [f"{RECIPE.digest}/recipe.json"]


def test_a_rolling_state_goes_unless_it_is_kept_at_the_address_too(on_node: MakeTree, address: str) -> None:
    one, two = on_node("one"), on_node("two")
    first, second = (add(one, letter * 16, kept=False) for letter in "ab")
    two.keep_state("a" * 16)  # by a run that goes on elsewhere
    two.drop_rolling("a" * 16)
    two.drop_rolling("b" * 16)
    assert names(address) == [first.replace("rolling", "state")] and second not in names(address)


def test_the_states_at_the_address_stay_within_the_budget(on_node: MakeTree, address: str) -> None:
    size = len(pack({"state_dict": {"weight": torch.zeros(1000)}, "name": "a" * 16})[0])
    tree = on_node("one", budget_bytes=3 * size + size // 2)
    states = [add(tree, letter * 16, size=4000) for letter in "abcde"]
    assert names(address) == sorted(states[2:]), "those that were written first are gone"
    add(tree, "f" * 16, size=40_000)
    assert names(address) == sorted(states[2:]), "larger than the budget"


def test_an_epoch_is_one_nodes_until_it_gives_it_back(on_node: MakeTree, address: str) -> None:
    one, two, three = on_node("one"), on_node("two"), on_node("three")
    assert one.claim(NAME)
    assert not two.claim(NAME) and not three.claim(NAME)
    assert two.claim("b" * 16)
    one.record(NODE)
    one.release(NAME)
    assert two.claim(NAME) and two.find(NAME) == NODE
    two.release(NAME)
    two.release("b" * 16)
    assert names(address, "claims") == []


def test_an_epoch_of_a_node_that_is_gone_is_taken_over_by_one(
    on_node: MakeTree, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, one, two = on_node("gone"), on_node("one"), on_node("two")
    assert gone.claim(NAME)
    assert not one.claim(NAME) and not two.claim(NAME)
    monkeypatch.setattr(remote, "DEAD_SECONDS", 0.0)
    at = open_objects(address)
    at.write(f"claims/{NAME}-0", gone._sign())
    assert not one.claim(NAME), "it shows signs of life"
    assert one.claim(NAME)
    monkeypatch.setattr(remote, "DEAD_SECONDS", 1000.0)
    late = on_node("late")
    assert not two.claim(NAME) and not late.claim(NAME), "the new holder lives"
    assert names(address, "claims") == [f"claims/{NAME}-{number}" for number in (0, 1)]
    one.release(NAME)
    assert names(address, "claims") == []
    assert late.claim(NAME)


def test_a_run_that_was_killed_takes_its_epoch_up_at_once(on_node: MakeTree) -> None:
    assert on_node("one", run_id="first").claim(NAME)
    assert on_node("two", run_id="first").claim(NAME), "the same run, elsewhere"
    assert on_node("one", run_id="other").claim("b" * 16)
    assert on_node("one", run_id="another").claim("b" * 16), "its node's own claim is free"


def test_a_holder_shows_signs_of_life(on_node: MakeTree, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BEAT_SECONDS", 0.01)
    tree, seen = on_node("one"), set[bytes]()
    tree.claim(NAME)

    def has_changed_twice() -> bool:
        content = open_objects(address).read(f"claims/{NAME}-0")
        assert content is not None and json.loads(content)["run"] == "run on one"
        seen.add(content)
        return len(seen) == 3

    wait_until(has_changed_twice)


def test_of_many_that_want_an_epoch_one_gets_it(on_node: MakeTree) -> None:
    trees = [on_node(str(number)) for number in range(8)]
    got: list[bool] = []
    threads = [threading.Thread(target=lambda tree=tree: got.append(tree.claim(NAME))) for tree in trees]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(got) == [False] * 7 + [True]


def test_while_the_address_is_away_the_cache_is_used_and_what_is_written_waits(
    on_node: MakeTree, address: str, broken: Callable[[bool], None]
) -> None:
    tree = on_node("one")
    assert tree.news() is None
    broken(True)
    assert tree.claim(NAME) and tree.find(NAME) is None
    add(tree, kept=False)
    tree.record(NODE)
    tree.release(NAME)
    tree.keep_state(NAME)
    assert tree.find(NAME) == NODE and tree.load_state(NAME) is not None
    told = tree.news()
    assert told is not None and f"{address} cannot be reached (the cable is out)" in told
    assert tree.news() is None, "once"
    broken(False)
    assert names(address) == []
    assert tree.news() == f"{address} answers again"
    add(tree, "b" * 16)
    other = on_node("two")
    assert other.find(NAME) == NODE and other.load_state(NAME) is not None, "what waited came first"
    assert [name.rpartition(".")[2] for name in names(address) if NAME in name] == ["json", "state"]


def test_a_lease_that_ends_while_the_address_is_away_is_given_back_later(
    on_node: MakeTree, address: str, broken: Callable[[bool], None]
) -> None:
    tree = on_node("one")
    assert tree.claim(NAME) and [name for name in names(address) if "claims" in name]
    broken(True)
    tree.release(NAME)
    broken(False)
    tree.record(NODE)
    assert not [name for name in names(address) if "claims" in name]
    assert on_node("two").claim("b" * 16)


def test_a_state_that_the_nodes_cache_cannot_hold_is_at_the_address(
    on_node: MakeTree, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "default_path_budget", lambda folder: 10)
    full = on_node("one")
    state = add(full)
    full.record(NODE)
    assert state in names(address)
    assert not list(full.states.glob(f"{NAME}-*"))


def test_who_asks_an_address_that_is_away_does_not_wait_for_it_again_at_once(
    address: str, broken: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    at = open_objects(address)
    broken(True)
    with pytest.raises(Away, match="the cable is out"):
        at.read("a")
    monkeypatch.setattr(at, "_asks_again", float("inf"))
    broken(False)
    with pytest.raises(Away, match="the cable is out"):
        at.read("a")
    with pytest.raises(HarnessError, match=f"--paths {address}: nothing can be kept there"):
        monkeypatch.setattr(at, "check", lambda: at.read("a"))
        check_address(address)


def test_an_address_is_tried_before_it_is_used(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_address(address) is None
    assert names(address) == []
    monkeypatch.setattr(open_objects(address), "create", lambda name, content: True)
    assert "has no conditional writes" in str(check_address(address))


def test_an_address_that_fsspec_does_not_know_is_said() -> None:
    with pytest.raises(HarnessError, match=r"--paths s4://b/x: .*s4\. Write it as s3://BUCKET/NAME"):
        Objects("s4://b/x")


def test_a_package_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(HarnessError) as caught:
        Objects("s3://bucket/x")
    assert (
        str(caught.value)
        == "--paths s3://bucket/x needs a package that is not installed: pip install 'experiment-harness[s3]'"
    )


def test_missing_keys_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("s3fs", reason="needs s3fs: pip install 'experiment-harness[s3]'")
    for name in [*KEYS, "AWS_PROFILE"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert os.environ.get("AWS_ACCESS_KEY_ID") is None
    with pytest.raises(HarnessError, match=r"Unable to locate credentials. Set AWS_ACCESS_KEY_ID and"):
        Objects("s3://bucket/missing-keys").check()
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(HarnessError, match=r"Could not connect .* Is the store up and AWS_ENDPOINT_URL right\?"):
        check_address("s3://bucket/nothing-listens")
