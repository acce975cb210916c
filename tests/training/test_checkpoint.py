"""Checkpoints: plain data that loads anywhere; what is damaged or runs code is refused, and says so."""

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from harness.errors import HarnessError
from harness.files import write_whole
from harness.training.checkpoint import load_checkpoint, pack, plain
from harness.training.device import seed_all

READ = """
import sys, torch
for path in sys.argv[1:]:
    checkpoint = torch.load(path, weights_only=True)
    print(sorted(checkpoint), checkpoint["epoch"], sorted(checkpoint["params"].items()), len(checkpoint["state_dict"]))
try:
    import harness
except ModuleNotFoundError:
    print("no harness here")
"""


def test_torch_reads_a_checkpoint_where_this_package_is_not(
    write: Callable[..., Path], walk: Callable[..., Any], tmp_path: Path
) -> None:
    run = walk(write())
    paths = [str(run.checkpoints / f"{slot}.pth.tar") for slot in ("last", "best")]
    python = [sys.executable, "-I", "-c", f"import sys; sys.path = [p for p in sys.path if 'harness' not in p]\n{READ}"]
    done = subprocess.run([*python, *paths], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    keys = ["epoch", "frozen", "metrics", "node", "optimizer", "params", "rng", "run_id", "scheduler", "spec",
            "state_dict", "values", "versions"]  # fmt: skip
    last, best, *rest = done.stdout.splitlines()
    assert last == f"{keys} 5 {sorted(run.checkpoint()['params'].items())} {len(run.checkpoint()['state_dict'])}"
    assert best.startswith(str(keys))
    assert rest in (["no harness here"], []), "an editable installation is found even so"


def test_a_checkpoint_says_what_it_was_made_of_and_with(write: Callable[..., Path], walk: Callable[..., Any]) -> None:
    spec = write()
    run = walk(spec, run_id="run")
    checkpoint = run.checkpoint()
    assert checkpoint["metrics"] == run.metrics[-1]
    assert checkpoint["spec"] | {"digest": ""} == {"name": "net.py", "source": spec.read_text(), "digest": ""}
    assert checkpoint["versions"]["torch"] == str(torch.__version__)
    assert (checkpoint["rng"]["seed"], checkpoint["rng"]["epoch"]) == (0, 6)
    assert checkpoint["run_id"] == "run"
    assert load_checkpoint(run.checkpoints / "last.pth.tar").keys() == checkpoint.keys()


def test_the_saved_generators_are_those_that_the_next_epoch_starts_with(
    write: Callable[..., Path], walk: Callable[..., Any]
) -> None:
    rng = walk(write()).checkpoint()["rng"]
    seed_all(0, "epoch", 6)
    wanted = torch.rand(3), random.random()
    torch.set_rng_state(rng["torch"])
    random.setstate(rng["python"])
    assert torch.equal(torch.rand(3), wanted[0]) and random.random() == wanted[1]


def small(path: Path) -> Path:
    write_whole(path, pack({"state_dict": nn.Linear(3, 2).state_dict(), "optimizer": {}, "epoch": 3, "node": "a"})[0])
    return path


def test_any_damage_of_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    """Torch itself does not look at the checksums: a flipped weight would be read without a word."""
    path = small(tmp_path / "last.pth.tar")
    content, wanted = path.read_bytes(), load_checkpoint(path)
    chosen = random.Random(1)
    noticed = 0
    for _ in range(300):
        place = chosen.randrange(len(content))
        flipped = content[:place] + bytes([content[place] ^ 1 << chosen.randrange(8)]) + content[place + 1 :]
        path.write_bytes(flipped if chosen.random() < 0.7 else content[:place])
        try:
            loaded = load_checkpoint(path)
        except HarnessError as error:
            noticed += 1
            assert error.exit_code == 1 and str(path) in str(error)
        else:  # a date in a header, or padding between the parts
            assert (loaded["epoch"], loaded["node"]) == (3, "a")
            assert torch.equal(loaded["state_dict"]["weight"], wanted["state_dict"]["weight"])
    assert noticed > 100


@pytest.mark.parametrize(("content", "message"), [
    (None, "does not exist"),
    (b"", "is damaged or not a torch file"),
    (b"hello, world", "is damaged or not a torch file"),
    (b"PK\x03\x04", "is damaged or not a torch file"),
])  # fmt: skip
def test_what_is_no_checkpoint_says_so(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "last.pth.tar"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(HarnessError, match=message):
        load_checkpoint(path)


def test_another_dict_is_no_checkpoint_of_ours(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "last.pth.tar")
    with pytest.raises(HarnessError, match=r"last.pth.tar is not a checkpoint of this package"):
        load_checkpoint(tmp_path / "last.pth.tar")
    torch.save([1], tmp_path / "last.pth.tar")
    with pytest.raises(HarnessError, match="is not a checkpoint of this package"):
        load_checkpoint(tmp_path / "last.pth.tar")
    with pytest.raises(HarnessError, match="cannot be read"):
        load_checkpoint(tmp_path)


class Runs:
    """Would run code when it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("/tmp/it-ran"),)


@pytest.mark.parametrize("value", (nn.Linear(2, 2), {"state_dict": {}, "extra": Runs()}))
@pytest.mark.parametrize("zipped", (True, False))
def test_objects_are_refused_and_not_run(tmp_path: Path, value: Any, zipped: bool) -> None:
    torch.save(value, tmp_path / "model.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(HarnessError, match=r"holds Python objects, .* Save its state_dict\(\) instead."):
        load_checkpoint(tmp_path / "model.pth")
    assert not Path("/tmp/it-ran").exists()


def test_plain_values_are_what_every_torch_reads() -> None:
    given = {"a": np.float64(0.5), "b": (np.int64(3), [True, None]), "c": {"x"}, 4: b"", "d": nn.ReLU}
    made = plain(given)
    assert made == {"a": 0.5, "b": (3, [True, None]), "c": ["x"], 4: b"", "d": repr(nn.ReLU)}
    assert type(made["a"]) is float and type(made["b"][0]) is int
