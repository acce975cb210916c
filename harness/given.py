"""Reads the arguments of calls from Python: a spec as a path or a class, a run as an id or a result, folders."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from harness.errors import HarnessError
from harness.experiment import Experiment
from harness.spec import experiment_name

if TYPE_CHECKING:
    from harness.results.reload import LoadedRun
    from harness.tracking.runs import RunRecord

    RunLike: TypeAlias = str | RunRecord | LoadedRun

PathLike: TypeAlias = str | os.PathLike[str]
SpecLike: TypeAlias = PathLike | type[Experiment]
Study: TypeAlias = str | int | None


def spec_file(spec: SpecLike) -> Path:
    """The file of a spec, given as a path or as a class. Raises `HarnessError` if it has none."""
    if isinstance(spec, str | os.PathLike):
        return Path(spec)
    if not isinstance(spec, type) or not issubclass(spec, Experiment):
        raise HarnessError(f"{spec!r} is not a spec: give the path of a file, or the Experiment class that it holds.")
    file = getattr(sys.modules.get(spec.__module__), "__file__", None)
    if file is None or not Path(file).is_file():
        raise HarnessError(
            f"{spec.__name__} was defined in a notebook or a shell. Write it to a file of its own, such as "
            f"{spec.__name__.lower()}.py (in a notebook: %%writefile), and give that file: workers load it again."
        )
    path = Path(file)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def name_of(spec: SpecLike, demo: bool) -> str:
    """The experiment's name in the store; a spec can also be given by this name."""
    return experiment_name(spec if isinstance(spec, str | os.PathLike) else spec_file(spec), is_demo=demo)


def name_if(spec: SpecLike | None, demo: bool) -> str | None:
    return None if spec is None else name_of(spec, demo)


def run_id_of(run: "RunLike") -> str:
    return run if isinstance(run, str) else run.run_id


@contextmanager
def data_in(folder: PathLike | None) -> Iterator[None]:
    """Sets the folder for data and downloads for a `with` block."""
    before = os.environ.get("HARNESS_DATA_DIR")
    if folder is not None:
        os.environ["HARNESS_DATA_DIR"] = os.fspath(folder)
    try:
        yield
    finally:
        if folder is not None:
            if before is None:
                del os.environ["HARNESS_DATA_DIR"]
            else:
                os.environ["HARNESS_DATA_DIR"] = before


@contextmanager
def trusting(store: PathLike, trust: bool) -> Iterator[None]:
    """Allows executing the code that is stored with the runs of a store, for a `with` block."""
    before = os.environ.get("HARNESS_TRUST")
    if trust:
        named = os.environ.get("MLFLOW_TRACKING_URI") or str(Path(store).absolute())
        os.environ["HARNESS_TRUST"] = ",".join(filter(None, (before, named)))
    try:
        yield
    finally:
        if trust:
            del os.environ["HARNESS_TRUST"]
            os.environ |= {} if before is None else {"HARNESS_TRUST": before}
