"""The tree of epochs at an address, such as s3://bucket/paths, shared by several machines. Each machine has a cache.

The cache is a tree in a folder. A node or state that the cache lacks is read from the address, where it has the same
name. A new one is written into the cache and to the address. While an epoch is trained, its holder writes a lease to
the address again and again: the object `claims/<node>-<generation>`. Other machines wait. When the lease does not
change for some time, another machine takes the epoch over, with a lease of the next generation.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from harness.files import cache_folder, remove_abandoned, write_whole
from harness.machine import default_path_budget
from harness.objects import Away, StoredObject, open_objects
from harness.training.recipe import Recipe, digest_of
from harness.training.tree import SUFFIXES, Node, Tree, read_node, read_state, state_name

LOOK_SECONDS = 1.0  # between two checks whether another machine has trained an epoch
BEAT_SECONDS = 10.0  # between two writes of a lease by its holder
DEAD_SECONDS = 45.0  # a lease that has not changed for so long is free
OVERSHOOT = 10  # the states at the address are counted again after this share of the budget was added
T = TypeVar("T")


@cache
def node_folder(address: str) -> Path:
    """The cache folder of this machine for an address: under `HARNESS_CACHE_DIR`, if that is set."""
    cache = Path(os.environ.get("HARNESS_CACHE_DIR") or cache_folder())
    folder = cache.absolute() / "paths" / digest_of(address)
    folder.mkdir(parents=True, exist_ok=True)
    remove_abandoned(folder)
    return folder


def open_tree(paths: Path | str, recipe: Recipe, *, run_id: str, budget_bytes: int) -> Tree:
    """The tree in a folder, or at an address."""
    if isinstance(paths, Path):
        return Tree(paths, recipe, budget_bytes=budget_bytes)
    return RemoteTree(paths, recipe, run_id=run_id, budget_bytes=budget_bytes)


class RemoteTree(Tree):
    """The nodes and states of one recipe at an address. If it cannot be reached, nothing is found there: no error."""

    def __init__(self, address: str, recipe: Recipe, *, run_id: str, budget_bytes: int) -> None:
        folder = node_folder(address)
        super().__init__(folder, recipe, budget_bytes=min(budget_bytes, default_path_budget(folder)))
        self._objects = open_objects(address)
        self._address_budget = budget_bytes
        self._added = budget_bytes  # bytes since the states at the address were last counted
        claims = os.fstat(self._claims)
        # A process on this machine that holds a lease also holds the claim in the cache.
        self._holder = {"run": run_id, "node": f"{socket.gethostname()} {claims.st_dev} {claims.st_ino}"}
        self._leases: dict[str, str] = {}  # names of objects, by node
        self._generations: dict[str, int] = {}
        self._ended: dict[str, int] = {}  # last generations of leases that are about to be removed
        self._watched: dict[str, tuple[bytes, float]] = {}  # leases of others: content, and since when
        self._looked: dict[str, float] = {}  # when the address was last asked for an epoch
        self._denied: dict[str, float] = {}
        self._beating = threading.Lock()
        self._closing = threading.Event()
        self._heart: threading.Thread | None = None

    def close(self) -> None:
        """Releases every claim, in the cache and at the address."""
        self._closing.set()
        self._objects.in_turn()
        for name in list(self._leases):
            self._ask(self._give_back, name)
        if self._heart is not None:
            self._heart.join()
        super().close()

    def find(self, name: str) -> Node | None:
        """The node of this name, if its epoch was trained on any node and its record is intact."""
        found = super().find(name)
        if found is not None or time.monotonic() < self._looked.get(name, 0.0) + LOOK_SECONDS:
            return found
        self._looked[name] = time.monotonic()
        record = f"{self.root}/{name}.json"
        content = self._ask(self._objects.read, record)
        if content is None:
            return None
        node = read_node(content, name)
        if node is None:
            self._ask(self._objects.remove, record)
        else:
            write_whole(self.folder / f"{name}.json", content)
        return node

    def record(self, node: Node) -> None:
        """Keeps a trained epoch."""
        super().record(node)
        if node.parent == self.root:
            self._in_turn(lambda: self._put("recipe.json"))
        self._in_turn(lambda: self._put(f"{node.name}.json"))

    def claim(self, name: str) -> bool:
        """Claims an epoch for training; False while another process, on any machine, trains it.

        While the address cannot be reached, other machines may train the epoch too. They get the same bits.
        """
        if time.monotonic() < self._denied.get(name, 0.0) + LOOK_SECONDS or not super().claim(name):
            return False
        try:
            is_ours = self._lease(name)
        except Away:
            is_ours = True
        if is_ours:
            self._looked.pop(name, None)  # ask again at once
        else:
            self._denied[name] = time.monotonic()
            super().release(name)
        return is_ours

    def release(self, name: str) -> None:
        """Releases a claim, after everything that waits to be written."""
        super().release(name)
        self._in_turn(lambda: self._give_back(name))

    def load_state(self, name: str) -> dict[str, Any] | None:
        """The state after an epoch, or None. One that fails its checksum is removed."""
        state = super().load_state(name)
        if state is not None:
            return state
        for found in self._ask(self._find_states, name) or ():
            content = self._ask(self._objects.read, found.name)
            if content is None:
                continue
            file = self.states / found.name.rpartition("/")[2]
            state = read_state(content, file.name)
            if state is not None:
                write_whole(file, content)
                self._keep_budget()
                return state
            self._ask(self._objects.remove, found.name)
        return None

    def add_state(self, name: str, content: bytes, checksum: str, *, kept: bool, source: Path | None = None) -> None:
        """Keeps a packed checkpoint as the state after an epoch; `source` is a file that already holds it."""
        super().add_state(name, content, checksum, kept=kept, source=source)
        if len(content) <= self._address_budget:
            uncached = content if len(content) > self.budget_bytes else None  # too large for the cache
            self._in_turn(lambda: self._put_state(state_name(name, checksum, kept=kept), uncached))

    def keep_state(self, name: str) -> None:
        """Makes a rolling state a lasting one."""
        super().keep_state(name)
        self._in_turn(lambda: self._keep(name))

    def drop_rolling(self, name: str) -> None:
        """Removes a rolling state that a later one of its run replaced."""
        super().drop_rolling(name)
        self._in_turn(lambda: self._drop(name))

    def news(self) -> str | None:
        """A message that the address cannot be reached, or answers again."""
        return self._objects.news()

    def _ask(self, question: Callable[..., T], *arguments: Any) -> T | None:
        """The address's answer; None while it cannot be reached."""
        try:
            return question(*arguments)
        except Away:
            return None

    def _in_turn(self, job: Callable[[], object]) -> None:
        self._objects.in_turn(job)

    def _put(self, name: str, uncached: bytes | None = None) -> bool:
        """Copies a file of the cache to the address; False if the cache has it no more."""
        try:
            content = (self.folder / name).read_bytes() if uncached is None else uncached
        except FileNotFoundError:
            return False
        self._objects.write(f"{self.root}/{name}", content)
        self._added += len(content)
        return True

    def _put_state(self, file_name: str, uncached: bytes | None = None) -> None:
        if self._put(f"states/{file_name}", uncached) and self._added * OVERSHOOT >= self._address_budget:
            self._keep_address_budget()

    def _keep(self, name: str) -> None:
        found = self._find_states(name)
        for state in found:
            stem, _, suffix = state.name.rpartition(".")
            if suffix == "rolling":
                self._objects.move(state.name, f"{stem}.state")
        if not found:  # it became a lasting state before it was copied
            for path in self._states(name):
                self._put_state(path.name)

    def _drop(self, name: str) -> None:
        for state in self._find_states(name):
            if state.name.endswith(".rolling"):
                self._objects.remove(state.name)

    def _find_states(self, name: str) -> list[StoredObject]:
        found = self._objects.find(f"{self.root}/states", f"{name}-")
        return sorted(found, key=lambda state: SUFFIXES.index(Path(state.name).suffix))

    def _keep_address_budget(self) -> None:
        """Removes the states that were written first: an object store does not say when one was last used."""
        states = [found for found in self._objects.find("") if Path(found.name).parent.name == "states"]
        total = sum(found.size for found in states)
        for found in states[:-1]:
            if total <= self._address_budget:
                break
            self._objects.remove(found.name)
            total -= found.size
        self._added = 0

    def _lease(self, name: str) -> bool:
        """Takes the lease of an epoch, unless a living process has it."""
        while True:
            generation = self._generations.get(name, 0)
            lease = f"claims/{name}-{generation}"
            if self._objects.create(lease, self._sign()):
                if generation and self._objects.read(f"claims/{name}-{generation - 1}") is None:
                    self._objects.remove(lease)  # the others were removed meanwhile: start again at 0
                    del self._generations[name]
                    return False
                with self._beating:
                    self._leases[name] = lease
                if self._heart is None:
                    self._heart = threading.Thread(target=self._beat, name="leases", daemon=True)
                    self._heart.start()
                return True
            content = self._objects.read(lease)
            if content is None:  # removed a moment ago
                return False
            if not self._is_left(content):
                before, since = self._watched.get(lease, (None, 0.0))
                if content != before:
                    self._watched[lease] = content, time.monotonic()
                    return False
                if time.monotonic() < since + DEAD_SECONDS:
                    return False
            self._generations[name] = generation + 1

    def _sign(self) -> bytes:
        return json.dumps(self._holder | {"beat": uuid.uuid4().hex}).encode()

    def _is_left(self, content: bytes) -> bool:
        """Whether a lease's process has ended: it is of this run, or of this machine, whose claim we hold."""
        try:
            holder = json.loads(content)
            return any(holder[name] == mine for name, mine in self._holder.items())
        except (ValueError, KeyError, TypeError):
            return True

    def _beat(self) -> None:
        while not self._closing.wait(BEAT_SECONDS):
            with self._beating:
                for lease in self._leases.values():
                    self._ask(self._objects.write, lease, self._sign())

    def _give_back(self, name: str) -> None:
        with self._beating:  # no write after the release
            if self._leases.pop(name, None) is not None:
                self._ended[name] = self._generations.pop(name, 0)
        for generation in range(self._ended.get(name, -1) + 1):  # after a failure, again from the first one
            self._objects.remove(f"claims/{name}-{generation}")
        self._ended.pop(name, None)
