"""Whose code is run: what a run keeps is checked first, and that of others is run only where someone says so."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.api import load_run
from harness.errors import HarnessError
from harness.results.kept import SavedRun

APPENDED = "\nimport os\nos.environ['RAN'] = '1'\n"


@pytest.fixture
def store(swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("RAN", raising=False)
    monkeypatch.delenv("HARNESS_TRUST", raising=False)
    shutil.copytree(swept / "mlruns", tmp_path / "mlruns")
    return tmp_path / "mlruns"


def artifacts(store: Path) -> Path:
    """The artifacts of the best run."""
    return load_run("best", "small", store=store, weights_only=True).checkpoint.parent.parent


def load(store: Path, **more: Any) -> Any:
    return load_run("best", "small", store=store, device="cpu", **more)


def test_code_that_was_appended_to_a_kept_spec_is_not_run(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = artifacts(store) / "spec" / "small.py"
    spec.write_text(spec.read_text() + APPENDED)
    with pytest.raises(HarnessError, match="not the one that the run was trained with"):
        load(store)
    assert "RAN" not in __import__("os").environ


@pytest.mark.parametrize("name", ["torch.py", "small.pyc", "torch.so", "harness/__init__.py"])
def test_a_module_that_was_put_beside_a_kept_spec_is_not_imported(name: str, store: Path) -> None:
    added = artifacts(store) / "spec" / name
    added.parent.mkdir(exist_ok=True)
    added.write_text(APPENDED)
    with pytest.raises(HarnessError, match="not the one that the run was trained with"):
        load(store)


@pytest.mark.parametrize("name", ["../../outside.py", "/tmp/outside.py", "..", "", "other.py", "small.py/../small.py"])
def test_a_name_in_a_checkpoint_leads_nowhere_else(name: str, store: Path) -> None:
    file = artifacts(store) / "checkpoints" / "best.pth.tar"
    (file.parent.parent / "outside.py").write_text(APPENDED)
    saved = torch.load(file, weights_only=True)
    saved["spec"]["name"] = name
    torch.save(saved, file)
    with pytest.raises(HarnessError, match="holds no spec of the name"):
        load(store)


def test_a_run_can_be_looked_at_without_running_its_code(store: Path) -> None:
    spec = artifacts(store) / "spec" / "small.py"
    spec.write_text("raise SystemExit('this was run')")
    saved = load_run("best", "small", store=store, weights_only=True)
    assert isinstance(saved, SavedRun) and saved.weights["0.weight"].shape == (16, 6)
    assert saved.sources == {"small.py": "raise SystemExit('this was run')"} and not hasattr(saved, "model")


def test_code_in_another_users_store_is_run_only_where_it_is_trusted(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    monkeypatch.setattr("harness.results.kept.ROOT", -1)  # these files are root's where root tests
    with pytest.raises(HarnessError, match=r"another user's store.*--trust"):
        load(store)
    assert load_run("best", "small", store=store, weights_only=True).epoch >= 0
    assert load(store, trust=True).model is not None
    monkeypatch.setenv("HARNESS_TRUST", f"http://elsewhere,{store}")
    assert load(store).model is not None


@pytest.mark.parametrize(
    ("part", "value", "told"),
    [
        ("epoch", "three", "its epoch is 'three'"),
        ("epoch", -1, "its epoch is -1"),
        ("spec", None, "its spec is missing"),
        ("spec", {}, "its spec has no name"),
        ("values", None, "its values is missing"),
        ("values", {1: 2}, "its values is no dict of names"),
        ("metrics", {"val_loss": "low"}, "its metrics are no numbers"),
        ("state_dict", [1], "its state_dict is no dict of names"),
    ],
)
def test_an_odd_checkpoint_is_an_error_in_one_sentence(part: str, value: Any, told: str, store: Path) -> None:
    file = artifacts(store) / "checkpoints" / "best.pth.tar"
    saved = torch.load(file, weights_only=True)
    saved[part] = value
    torch.save(saved, file)
    with pytest.raises(HarnessError, match=told):
        load(store)
