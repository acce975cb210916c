"""Experiments with plain PyTorch: one file describes one, one command searches it, no epoch is trained twice."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from harness import data, models, search
    from harness.api import (
        best,
        compare,
        confirm,
        history,
        load_run,
        new,
        predict,
        reload,
        report,
        runs,
        sweep,
        train,
        ui,
    )
    from harness.errors import HarnessError
    from harness.experiment import Experiment
    from harness.results.reload import LoadedRun
    from harness.searching.outcome import SweepResult
    from harness.tracking.runs import RunRecord

__all__ = [
    "Experiment",
    "HarnessError",
    "LoadedRun",
    "RunRecord",
    "SweepResult",
    "best",
    "compare",
    "confirm",
    "data",
    "history",
    "load_run",
    "models",
    "new",
    "predict",
    "reload",
    "report",
    "runs",
    "search",
    "sweep",
    "train",
    "ui",
]

_MODULES = ("data", "models", "search")
_HOMES = {
    "Experiment": "harness.experiment",
    "HarnessError": "harness.errors",
    "LoadedRun": "harness.results.reload",
    "RunRecord": "harness.tracking.runs",
    "SweepResult": "harness.searching.outcome",
}


if not TYPE_CHECKING:  # a type checker sees the imports above, and so what is misspelt

    def __getattr__(name: str) -> Any:
        """Public names load on first use: importing `harness` imports neither torch nor MLflow."""
        if name in _MODULES:
            return import_module(f"harness.{name}")
        if name not in __all__:
            raise AttributeError(f"module 'harness' has no attribute '{name}'")
        found = getattr(import_module(_HOMES.get(name, "harness.api")), name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    """The public names, for tab completion."""
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
