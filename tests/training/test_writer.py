"""The writer works beside the training, in order, and its errors are not lost."""

import threading
import time
from pathlib import Path

import pytest
import torch
from states import has_state

from harness.training.checkpoint import load_checkpoint
from harness.training.recipe import Recipe
from harness.training.tree import Tree
from harness.training.writer import MOST_WAITING, Writer, write_checkpoint


def test_jobs_are_done_in_order_and_beside_the_caller() -> None:
    writer, done, gate = Writer(), list[int](), threading.Event()
    writer.do(lambda: gate.wait(30) and None)  # type: ignore[arg-type, return-value, func-returns-value]
    for number in range(MOST_WAITING):
        writer.do(lambda number=number: done.append(number))  # type: ignore[misc]
    assert done == []
    gate.set()
    writer.flush()
    assert done == list(range(MOST_WAITING))
    writer.close()


def test_who_trains_faster_than_the_disk_writes_waits() -> None:
    writer, started = Writer(), time.monotonic()
    for _ in range(MOST_WAITING + 4):
        writer.do(lambda: time.sleep(0.02))
    assert time.monotonic() - started > 0.04
    writer.close()


def test_an_error_reaches_the_caller_and_what_follows_it_is_not_done() -> None:
    writer, done = Writer(), list[int]()

    def fail() -> None:
        raise OSError("no space left on device")

    writer.do(fail)
    time.sleep(0.05)
    writer._jobs.put(lambda: done.append(1))
    with pytest.raises(OSError, match="no space left"):
        writer.flush()
    assert done == []
    writer.close()


def test_close_waits_for_what_was_queued() -> None:
    writer, done = Writer(), list[int]()
    writer.do(lambda: time.sleep(0.05))
    writer.do(lambda: done.append(1))
    writer.close()
    assert done == [1]


def test_one_checkpoint_goes_to_every_place_that_wants_it(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "paths", Recipe(code={}, values={}, rest={}), budget_bytes=10**6)
    checkpoint = {"state_dict": {"weight": torch.ones(2)}, "optimizer": {}, "epoch": 0, "node": "a" * 16}
    files = [tmp_path / "run" / name for name in ("best.pth.tar", "last.pth.tar")]
    write_checkpoint(checkpoint, files, tree, "a" * 16, rolling=True, kept=False)
    assert [load_checkpoint(file)["node"] for file in files] == ["a" * 16] * 2
    assert tree.load_state("a" * 16) is not None and not has_state(tree, "a" * 16, kept=True)
    assert files[0].stat().st_ino == files[1].stat().st_ino, "one copy on the disk"
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["best.pth.tar", "last.pth.tar"]
    write_checkpoint(checkpoint | {"epoch": 1}, files[:1], tree, "b" * 16, rolling=False, kept=False)
    assert [load_checkpoint(file)["epoch"] for file in files] == [1, 0], "a new one replaces, and changes no other"
    assert not has_state(tree, "b" * 16)
    loaded = tree.load_state("a" * 16)
    assert loaded is not None and loaded["epoch"] == 0
    tree.close()
