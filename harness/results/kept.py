"""Checks the checkpoint and the source of a run before they are used. Nothing here executes code of a run."""

import importlib.machinery
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import FAILED, HarnessError, without_login
from harness.spec import source_digest
from harness.tracking.store import Store
from harness.tracking.tags import SOURCE, SPEC_PATH
from harness.training.checkpoint import load_checkpoint

if TYPE_CHECKING:
    from mlflow.entities import Run

TRUST = "HARNESS_TRUST"  # trusted stores: folders, or addresses of servers, with commas between
ROOT = 0  # root can change everything that this user runs anyway


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedRun:
    """The stored content of a run, read without executing its code, so without a model. The first `epoch` is 1.

    `weights` is the `state_dict` of the checkpoint `file`, `sources` the text of the spec and of its modules.
    """

    run_id: str
    name: str
    params: dict[str, Any]
    values: dict[str, Any]
    metrics: dict[str, float]
    epoch: int
    weights: dict[str, Any]
    sources: dict[str, str]
    checkpoint: Path

    def __repr__(self) -> str:
        return f"{self.name} ({self.run_id[:8]}) after epoch {self.epoch}, not rebuilt: {self.checkpoint}"


def read_kept(store: Store, run: "Run", checkpoint: str) -> tuple[Path, dict[str, Any]]:
    """A checkpoint of a run: the file and its content. Raises `HarnessError` if it is not a complete checkpoint."""
    file = _checkpoint_file(store, run, checkpoint)
    saved = load_checkpoint(file)
    odd = _odd_part(saved)
    if odd is not None:
        raise HarnessError(f"{file} is not a whole checkpoint of this package: {odd}.", exit_code=FAILED)
    return file, saved


def look_at(store: Store, run: "Run", checkpoint: str) -> SavedRun:
    """Reads a run without executing its code."""
    file, saved = read_kept(store, run, checkpoint)
    return SavedRun(
        run_id=run.info.run_id,
        name=run.info.run_name,
        params=saved["params"],
        values=saved["values"],
        metrics=saved["metrics"],
        epoch=saved["epoch"] + 1,  # the file counts from 0
        weights=saved["state_dict"],
        sources=_read_sources(store.artifact(run, "spec")),
        checkpoint=file,
    )


def find_source(store: Store, run: "Run", saved: Mapping[str, Any], *, is_trusted: bool) -> Path:
    """The spec file of a run, before it is executed.

    Raises `HarnessError` if it is not the source that the checkpoint was trained with, or if it is not this user's own
    and not trusted (see `docs/safety.md`).
    """
    folder = store.artifact(run, "spec")
    name = saved["spec"]["name"]
    source: Path = folder / name
    if Path(name).name != name or not source.is_file() or not source.resolve().is_relative_to(folder.resolve()):
        raise HarnessError(f"{folder} holds no spec of the name {name!r} that the checkpoint names.", exit_code=FAILED)
    sources = _read_sources(folder)
    if source_digest(sources) not in (saved["spec"]["digest"], run.data.tags.get(SOURCE)):
        raise HarnessError(
            f"{folder}: this source is not the one that the run was trained with, so it is not run. "
            "Bring the artifacts back as they were, or look at the run with load_run(..., weights_only=True).",
            exit_code=FAILED,
        )
    if not is_trusted and str(store) not in _trusted() and not _is_own(store, run, folder, sources):
        whose = "another user's store" if store.is_local else "a tracking server"
        raise HarnessError(
            f"{store} is {whose}, and loading {run.info.run_name} would run the code that is kept there. "
            f"If you trust it, say --trust, in Python trust=True, or set {TRUST}={store}.",
            exit_code=FAILED,
        )
    return source


def _checkpoint_file(store: Store, run: "Run", name: str) -> Path:
    if name not in ("best", "last"):
        return store.artifact(run, f"checkpoints/{name}.pth.tar")
    other = "last" if name == "best" else "best"
    try:
        return store.artifact(run, f"checkpoints/{name}.pth.tar")
    except HarnessError:
        return store.artifact(run, f"checkpoints/{other}.pth.tar")


def _odd_part(saved: Mapping[str, Any]) -> str | None:
    """What is wrong with a checkpoint, in a clause."""
    for name in ("state_dict", "values", "params", "metrics", "spec"):
        part = saved.get(name)
        if not isinstance(part, dict) or not all(isinstance(key, str) for key in part):
            return f"its {name} is {'missing' if part is None else 'no dict of names'}"
    epoch = saved["epoch"]
    if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
        return f"its epoch is {epoch!r}"[:80]
    if not all(isinstance(saved["spec"].get(name), str) for name in ("name", "source", "digest")):
        return "its spec has no name, source or digest"
    if not all(isinstance(value, int | float) for value in saved["metrics"].values()):
        return "its metrics are no numbers"
    return None


def _read_sources(folder: Path) -> dict[str, str]:
    """The texts in a folder, by their paths in it."""
    sources = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name.endswith(tuple(importlib.machinery.all_suffixes())):
            sources[path.relative_to(folder).as_posix()] = path.read_text(encoding="utf-8", errors="replace")
    return sources


def _trusted() -> set[str]:
    names = [name.strip() for name in os.environ.get(TRUST, "").split(",") if name.strip()]
    return {without_login(name).rstrip("/") if "://" in name else str(Path(name).absolute()) for name in names}


def _is_own(store: Store, run: "Run", folder: Path, sources: Mapping[str, str]) -> bool:
    """Whether the code is this user's own: it is in their store, or the same file is on this machine."""
    if store.is_local:
        places = [store.folder / "mlflow.db", *(folder / name for name in sources)]
        return all(_is_mine(place) for place in places)
    spec = Path(run.data.tags.get(SPEC_PATH, ""))
    return all(
        any(_is_mine(root / name) and _text(root / name) == text for root in (spec.parent, Path.cwd()))
        for name, text in sources.items()
    )


def _is_mine(path: Path) -> bool:
    try:
        return path.stat().st_uid in (os.geteuid(), ROOT)
    except OSError:
        return False


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None
