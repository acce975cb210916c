"""The recipe: everything that fixes an epoch but the learning rate. Two runs of one recipe share their epochs."""

import ast
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from harness import __version__
from harness.settings import IN_EVERY_RECIPE, SETTINGS
from harness.spec import Spec

PACKAGE = Path(__file__).parent.parent


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Named parts, flat, each a short text; `digest` names them all.

    `code` holds a digest for each function of the spec and each local module that it imports, `values` the
    hyperparameters and settings that were read while building everything but the scheduler, and `rest`
    the data, seed, device, precision and versions. `private` is None for a path that others may share, and
    otherwise says why this run keeps its epochs to itself, with what makes it different from others.
    """

    code: dict[str, str]
    values: dict[str, str]
    rest: dict[str, str]
    private: str | None = None

    @property
    def digest(self) -> str:
        return digest_of(self.parts())

    @property
    def base_digest(self) -> str:
        """Without the hyperparameters: what a whole sweep has in common."""
        return digest_of({"code": self.code, "rest": self.rest})

    def parts(self) -> dict[str, Any]:
        """The recipe as JSON."""
        return {"code": self.code, "values": self.values, "rest": self.rest, "private": self.private}


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What changed between the `parts()` of two recipes, one clause each."""
    found = []
    for name, new in after["code"].items():
        if before["code"].get(name) != new:
            found.append(f"{name} {'changed' if name in before['code'] else 'is new'}")
    found += [f"{name} is gone" for name in before["code"] if name not in after["code"]]
    for group in ("values", "rest"):
        for name in sorted({*before[group], *after[group]}):
            old, new = before[group].get(name, "nothing"), after[group].get(name, "nothing")
            if old != new:
                found.append(f"{name}: {old} before, {new} now" if len(old + new) < 80 else f"{name} changed")
    if not found and before["private"] != after["private"]:
        found.append("scheduler(), or a value that it reads, changed")
    return found


def build_recipe(
    spec: Spec,
    values: Mapping[str, Any],
    reads: Iterable[str],
    rest: Mapping[str, Any],
    private: str | None = None,
) -> Recipe:
    """The recipe of an experiment: its code, the values of the names in `reads`, and the rest."""
    names = sorted(set(reads) - IN_EVERY_RECIPE)
    return Recipe(
        code=code_digests(spec),
        values={name: json.dumps(values[name], default=repr) for name in names},
        rest={
            **{name: str(value) for name, value in rest.items()},
            "torch": str(torch.__version__),
            "harness": f"{__version__} ({package_digest()})",
        },
        private=private,
    )


def code_digests(spec: Spec, *, scheduler: bool = False) -> dict[str, str]:
    """A digest for each part of the spec's sources that can change what an epoch computes.

    Comments, docstrings and layout do not count, nor do the declarations of settings and hyperparameters
    (their values do) and, unless asked for, `scheduler()` (the learning rates that it chooses do).
    """
    first, *others = spec.sources.items()
    digests: dict[str, str] = {}
    for node in _without_docstrings(ast.parse(first[1])).body:
        if isinstance(node, ast.ClassDef) and node.name == spec.experiment.__name__:
            _add(digests, node.name, ast.Tuple([*node.bases, *node.decorator_list]))
            declared = {*SETTINGS, *spec.experiment.hyperparameters}
            for item in node.body:
                if not _declares(item, declared) and (scheduler or not _is_scheduler(item)):
                    _add(digests, f"{node.name}.{_name_of(item)}", item)
        else:
            _add(digests, _name_of(node), node)
    for path, text in others:
        _add(digests, path, _without_docstrings(ast.parse(text)))
    return digests


def digest_of(value: Any) -> str:
    """16 hexadecimal digits that name a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()[:16]


@cache
def package_digest() -> str:
    """A digest of the sources of this package that compute: an edited loop is another recipe."""
    digest = hashlib.sha256()
    for folder in ("data", "models", "training"):
        for file in sorted((PACKAGE / folder).rglob("*.py")):
            digest.update(file.relative_to(PACKAGE).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()[:8]


def _add(digests: dict[str, str], name: str, node: ast.AST) -> None:
    digests[name] = digest_of([digests.get(name), ast.unparse(node)])


def _name_of(node: ast.AST) -> str:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return f"{node.name}()"
    if isinstance(node, ast.ClassDef):
        return node.name
    return "imports" if isinstance(node, ast.Import | ast.ImportFrom) else "constants"


def _declares(node: ast.AST, names: set[str]) -> bool:
    if isinstance(node, ast.AnnAssign):
        return isinstance(node.target, ast.Name) and node.target.id in names
    if isinstance(node, ast.Assign):
        return all(isinstance(target, ast.Name) and target.id in names for target in node.targets)
    return False


def _is_scheduler(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name == "scheduler"


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:] or [ast.Pass()]
    return tree
