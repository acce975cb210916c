"""What a spec imports: modules of the user's own, wherever they lie, and installed packages with their versions."""

import ast
import csv
import hashlib
import importlib.metadata
import importlib.util
import os
import site
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import ModuleType

PACKAGE = str(Path(__file__).parent)
INSTALLED = ("site-packages", "dist-packages")
IN_EVERY_RECIPE = frozenset(("harness", "torch", "torchvision"))  # their versions are there already


@cache
def _libraries() -> tuple[str, ...]:
    paths = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    folders = {PACKAGE, *paths, site.getusersitepackages()}
    return tuple(os.path.join(os.path.realpath(folder), "") for folder in folders)


def is_own(file: str | None) -> bool:
    """Whether a module's file is the user's: not of the standard library, an installed package, or this one."""
    if file is None or not file.endswith(".py") or _is_of_library(file):
        return False
    path = Path(file)
    return not any(path.relative_to(folder).parts[0] in _installed_in(folder) for folder in path.parents)


@cache  # a spec asks this of some thousand modules, several times
def _is_of_library(file: str) -> bool:
    return os.path.realpath(file).startswith(_libraries()) or bool(set(INSTALLED) & set(Path(file).parts))


@cache
def _installed_in(folder: Path) -> frozenset[str]:
    """The files and folders that `pip install --target` put into a folder: a folder of any name can hold packages."""
    names = set()
    for record in folder.glob("*.dist-info/RECORD"):
        with record.open(encoding="utf-8", newline="") as rows:
            names |= {row[0].partition("/")[0] for row in csv.reader(rows) if row}
    return frozenset(names)


@contextmanager
def fresh_imports(folder: Path) -> Iterator[Callable[[], dict[str, str]]]:
    """Inside the block the user's own modules are imported again, from `folder` first, and removed afterwards.

    So an edited file is seen, and the sources of an old run are loaded beside the present ones. Yields a function
    that lists the modules that were imported: for each, the path that its name stands for (`pkg/net.py`), and its file.
    """
    before = {name: module for name, module in list(sys.modules.items()) if _is_own_module(module)}
    for name in before:
        del sys.modules[name]
    path_before, write_before = list(sys.path), sys.dont_write_bytecode
    sys.path[:0] = [str(folder)]
    sys.dont_write_bytecode = True
    importlib.invalidate_caches()
    try:
        yield _list_own
    finally:
        sys.path[:], sys.dont_write_bytecode = path_before, write_before
        for name in [name for name, module in list(sys.modules.items()) if _is_own_module(module)]:
            del sys.modules[name]
        sys.modules.update(before)


def _list_own() -> dict[str, str]:
    found = {}
    for module in list(sys.modules.values()):
        if _is_own_module(module):
            file = str(module.__file__)
            path = module.__name__.replace(".", "/")
            found[f"{path}/__init__.py" if Path(file).name == "__init__.py" else f"{path}.py"] = file
    return dict(sorted(found.items()))


def _is_own_module(module: ModuleType) -> bool:
    name = getattr(module, "__name__", "")
    if name.startswith(("harness_spec_", "__main__", "__mp_main__")):
        return False
    file = getattr(module, "__file__", None)
    return is_own(file) and os.path.isfile(str(file))  # torch 2.11 has modules of no file, such as "_classes.py"


def imported_names(text: str) -> set[str]:
    """The top-level names that a source imports, except this package and the standard library."""
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except SyntaxError:  # loading it says where
        return set()
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.partition(".")[0] for name in names} - {"", "harness"} - sys.stdlib_module_names


def package_versions(texts: Iterable[str]) -> dict[str, str]:
    """The version of each installed package that the sources import; a digest if it has no version."""
    names = {name for text in texts for name in imported_names(text)} - IN_EVERY_RECIPE
    versions = {name: _version(name) for name in sorted(names)}
    return {name: version for name, version in versions.items() if version is not None}


@cache
def _version(name: str) -> str | None:
    spec = _find_spec(name)
    if spec is None or is_own(spec.origin):
        return None
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)
    for distribution in importlib.metadata.packages_distributions().get(name, ()):
        with suppress(importlib.metadata.PackageNotFoundError):  # its folder has another name than it says
            return importlib.metadata.version(distribution)
    return _content_digest(Path(spec.origin)) if spec.origin and spec.origin.endswith(".py") else None


def _content_digest(file: Path) -> str:
    files = sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def find_late_import(text: str) -> tuple[int, str] | None:
    """The line and name of a module of the user's own that a function imports, if there is one."""
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.Lambda)]
    for node in (inner for function in functions for inner in ast.walk(function)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""] if not node.level else []
        for name in filter(None, (name.partition(".")[0] for name in names)):
            found = None if name in sys.stdlib_module_names or name == "harness" else _find_spec(name)
            place = None if found is None else found.origin or next(iter(found.submodule_search_locations or ()), None)
            if place is not None and is_own(place if place.endswith(".py") else os.path.join(place, "__init__.py")):
                return node.lineno, name  # type: ignore[attr-defined]
    return None


def _find_spec(name: str) -> importlib.machinery.ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):  # such as a module that has no spec, `__main__`
        return None
