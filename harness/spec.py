"""Spec files: loads one, reads `--set`, and keeps its source, which is stored with every run."""

import hashlib
import importlib.machinery
import importlib.util
import os
import pickle
import pickletools
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

from harness.errors import USAGE, HarnessError, UserCodeError, did_you_mean, user_trace
from harness.experiment import Experiment
from harness.imports import find_late_import, fresh_imports, package_versions
from harness.search import Hyperparameter, check_hyperparameter, parse_hyperparameter
from harness.settings import SETTINGS, check_setting, parse_setting

_REQUIRED = ("data", "model", "optimizer")
_loading: ContextVar[bool] = ContextVar("loading", default=False)


@runtime_checkable
class SupportsItem(Protocol):
    """A number of NumPy's or torch's."""

    def item(self) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Description:
    """The settings and hyperparameters of a spec, without torch and without the class: it is sent between processes."""

    name: str
    path: Path
    summary: str  # first line of the docstring
    hyperparameters: dict[str, Hyperparameter]
    settings: dict[str, Any]

    def parse(self, assignments: Sequence[str]) -> dict[str, Any]:
        """The values of `--set NAME=VALUE` arguments, each by its declared type."""
        values = {}
        for assignment in assignments:
            name, equals, text = assignment.partition("=")
            name, text = name.strip(), text.strip()
            if not equals:
                raise HarnessError(f"--set {assignment}: write it as NAME=VALUE.")
            if name in self.hyperparameters:
                values[name] = parse_hyperparameter(name, self.hyperparameters[name], text)
            elif name in SETTINGS:
                values[name] = parse_setting(name, text, self.settings[name])
            else:
                raise self._unknown(f"--set {name}", name)
        return values

    def check(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The same for values given in Python, which may be NumPy's."""
        checked = {}
        for name, value in values.items():
            plain = value.item() if isinstance(value, SupportsItem) else value
            if name in self.hyperparameters:
                checked[name] = check_hyperparameter(name, self.hyperparameters[name], plain)
            elif name in SETTINGS:
                check_setting(name, plain)
                checked[name] = plain
            else:
                raise self._unknown(name, name)
        return checked

    def _unknown(self, where: str, name: str) -> HarnessError:
        known = list(dict.fromkeys([*self.hyperparameters, *SETTINGS]))
        return HarnessError(
            f"{where}: {self.path} has no hyperparameter or setting '{name}'."
            f"{did_you_mean(name, known)} It has: {', '.join(known)}."
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Spec:
    """A loaded spec file: its `Experiment` class, and every source file that belongs to it."""

    name: str
    path: Path
    experiment: type[Experiment]
    sources: dict[str, str]  # path -> text: the spec file, then each module of the user's that it imports, by its name
    packages: dict[str, str]  # installed packages that these import -> version

    @property
    def digest(self) -> str:
        """A digest of all source texts."""
        return source_digest(self.sources)

    def describe(self) -> Description:
        """The settings and hyperparameters, for processes that do not load the spec."""
        cls = self.experiment
        self._check_travels()
        doc = (sys.modules[cls.__module__].__doc__ if cls.__module__ in sys.modules else None) or cls.__doc__ or ""
        return Description(
            name=self.name,
            path=self.path,
            summary=doc.strip().split("\n")[0],
            hyperparameters=dict(cls.hyperparameters),
            settings={name: cls.defaults()[name] for name in SETTINGS},
        )

    def _check_travels(self) -> None:
        """Raises `HarnessError` if a value for the driver is of a class that the spec itself defines."""
        own = {f"harness_spec_{self.path.stem}", *(name.removesuffix(".py").replace("/", ".") for name in self.sources)}
        for name in SETTINGS:
            value = self.experiment.defaults()[name]
            try:
                operations = list(pickletools.genops(pickle.dumps(value, protocol=2)))
            except Exception as error:  # of any class's own pickling
                raise HarnessError(f"{self.path}: {name} cannot leave this file: {error}") from None
            classes = {str(given).partition(" ")[0] for operation, given, _ in operations if operation.name == "GLOBAL"}
            if classes & own:
                raise HarnessError(
                    f"{self.path}: {name} is of a class that the spec defines, but the process that uses it does not "
                    "load specs. Take one of Optuna's, or put the class into an installed package."
                )

    def build(self, values: Mapping[str, Any]) -> Experiment:
        """An instance with these values of hyperparameters and settings."""
        try:
            return self.experiment(**values)
        except HarnessError as error:
            raise HarnessError(f"{self.path}: {error}", exit_code=error.exit_code) from None


def source_digest(sources: Mapping[str, str]) -> str:
    """A digest of source texts, by their paths."""
    return hashlib.sha256(repr(sorted(sources.items())).encode()).hexdigest()[:16]


def experiment_name(spec: str | os.PathLike[str], *, is_demo: bool = False) -> str:
    """The name of a spec in MLflow and Optuna: the file's stem; demos are kept apart. A bare name stands for itself.

    >>> experiment_name("experiments/vgg_cifar.py", is_demo=True)
    'vgg_cifar-demo'
    """
    path = Path(spec)
    return (path.stem if path.suffix == ".py" else path.name) + ("-demo" if is_demo else "")


def load_spec(path: str | os.PathLike[str], *, original: str | None = None) -> Spec:
    """Loads a spec file; raises `HarnessError` naming the file and what is wrong with it.

    `original` is the path of the file that this is a copy of: it becomes `__file__`, for specs that look for their
    data beside them.

    The user's own modules that it imports are loaded again and removed from `sys.modules` afterwards. So an edited
    file is seen, and the source of an old run can be loaded beside the present one.
    """
    path = Path(path)
    text = read_source(path)
    name = f"harness_spec_{path.stem}"
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    module.__file__ = original or str(path)
    with fresh_imports(path.resolve().parent) as own_modules, _noted_as_loading():
        sys.modules[name] = module
        try:
            exec(_compiled(text, path), module.__dict__)
        except HarnessError as error:
            raise HarnessError(f"{path}: {error}") from None
        except SyntaxError as error:
            where = Path(error.filename) if error.filename else path
            line = "" if error.lineno is None else f":{error.lineno}"
            raise HarnessError(f"{where}{line}: {error.msg}.") from None
        except ModuleNotFoundError as error:
            raise HarnessError(f"{path}: {error}; install it, or put it beside the spec.") from None
        except (Exception, SystemExit) as error:
            if isinstance(error, ImportError) and "relative import" in str(error):
                raise HarnessError(
                    f"{path}: a spec is loaded by its path, so it has no package for a relative import. "
                    "Write `from package.module import name`."
                ) from None
            message = f"{path} raised {type(error).__name__} while it was loaded."
            raise UserCodeError(message, trace=user_trace(error), exit_code=USAGE) from None
        experiment = _find_experiment(module, path)
        sources = {path.name: text} | {
            key: Path(file).read_text(encoding="utf-8-sig") for key, file in own_modules().items()
        }
        packages = package_versions(sources.values())
        for file, source in sources.items():
            if late := find_late_import(source):
                raise HarnessError(
                    f"{path if file == path.name else file}:{late[0]}: import {late[1]} at the top of the file, not in "
                    "a function: a spec is loaded, and kept with its runs, together with the modules that it imports."
                )
    return Spec(name=path.stem, path=path, experiment=experiment, sources=sources, packages=packages)


def _compiled(text: str, path: Path) -> Any:
    try:
        return compile(text, str(path), "exec")
    except (ValueError, RecursionError, MemoryError) as error:  # zero bytes, or nested without end
        raise HarnessError(f"it is no Python source: {error}.") from None


def is_loading() -> bool:
    """Whether a spec file is being loaded, so that the calling code is part of one."""
    return _loading.get()


@contextmanager
def _noted_as_loading() -> Iterator[None]:
    token = _loading.set(True)
    try:
        yield
    finally:
        _loading.reset(token)


def read_source(path: Path) -> str:
    """The text of a spec file; raises `HarnessError` if it is no Python file that can be read."""
    if path.suffix != ".py":
        raise HarnessError(f"{path} is not a spec: a spec is a Python file, such as experiments/vgg_cifar.py.")
    try:
        return path.read_text(encoding="utf-8-sig")  # some editors write a byte-order mark first
    except FileNotFoundError:
        siblings = [str(other) for other in sorted(path.parent.glob("*.py"))] if path.parent.is_dir() else []
        raise HarnessError(f"{path} does not exist.{did_you_mean(str(path), siblings)}") from None
    except UnicodeDecodeError as error:
        raise HarnessError(f"{path} is not UTF-8: {error.reason} at byte {error.start}.") from None
    except OSError as error:
        shown = str(path) if len(str(path)) < 200 else f"{str(path)[:200]}..."
        raise HarnessError(f"{shown} cannot be read: {error.strerror}.") from None


def _find_experiment(module: ModuleType, path: Path) -> type[Experiment]:
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Experiment) and value.__module__ == module.__name__
    ]
    if not found:
        raise HarnessError(f"{path}: no Experiment in it; write one class that subclasses harness.Experiment.")
    if len(set(found)) > 1:
        names = " and ".join(cls.__name__ for cls in dict.fromkeys(found))
        raise HarnessError(
            f"{path}: {names} are both Experiments; a spec file holds one. Move the others to files of their own."
        )
    missing = [name for name in _REQUIRED if getattr(found[0], name) is getattr(Experiment, name)]
    if missing:
        wanted = " and ".join(f"{name}()" for name in missing)
        raise HarnessError(f"{path}: {found[0].__name__} has no {wanted}; every experiment needs one.")
    return found[0]


def local_roots(spec: Path) -> list[Path]:
    """The folders whose modules belong to a spec: its own, and the current one."""
    return [spec.resolve().parent, Path.cwd().resolve()]
