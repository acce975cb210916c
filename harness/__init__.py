"""Experiments with plain PyTorch: one file describes one, one command searches it, no epoch is trained twice."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from harness import data, models, search
    from harness.errors import HarnessError
    from harness.experiment import Experiment
    from harness.results.reload import LoadedRun, load_run
    from harness.tracking.runs import history, runs

__all__ = [
    "Experiment",
    "HarnessError",
    "LoadedRun",
    "data",
    "history",
    "load_run",
    "models",
    "runs",
    "search",
]

_HOMES = {
    "Experiment": "harness.experiment",
    "HarnessError": "harness.errors",
    "LoadedRun": "harness.results.reload",
    "load_run": "harness.results.reload",
    "history": "harness.tracking.runs",
    "runs": "harness.tracking.runs",
}


def __getattr__(name: str) -> Any:
    """Public names load on first use: importing `harness` imports neither torch nor MLflow."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in ("data", "models", "search"):
        return import_module(f"harness.{name}")
    raise AttributeError(f"module 'harness' has no attribute '{name}'")
