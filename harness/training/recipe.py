"""The recipe: everything that determines an epoch, except the learning rate. Runs of one recipe share epochs."""

import ast
import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from harness import __version__
from harness.settings import IN_EVERY_RECIPE, SETTINGS
from harness.spec import Spec
from harness.training.attributes import tensors_in
from harness.training.device import choose_threads, describe_device
from harness.training.state import as_bytes

if TYPE_CHECKING:
    from harness.training.build import Built

INITIAL = "initial weights"  # a part that follows from the other parts, unless a file was replaced
OF_VALUES = ("batch_size", "seed", "epoch_steps", INITIAL)  # parts of `rest` that hyperparameters may choose
PACKAGE = Path(__file__).parent.parent


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Named parts, flat, each a short text; `digest` names them all.

    `code` holds a digest for each function of the spec and each local module that it imports, `values` the
    hyperparameters and settings that were read while building everything but the scheduler, and `rest`
    the data, seed, device, precision and versions. `private` is None for a path that others may share. Otherwise it
    says why this run does not share its epochs, and contains what makes it different from all others.
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
        """The recipe without the hyperparameters: it is the same for a whole sweep."""
        return digest_of({"code": self.code, "rest": {n: v for n, v in self.rest.items() if n != INITIAL}})

    @property
    def family_digest(self) -> str:
        """The recipe without all that a search may choose: one fingerprint is enough for all such recipes."""
        rest = {name: value for name, value in self.rest.items() if name not in OF_VALUES}
        return digest_of({"code": self.code, "rest": rest})

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


def recipe_of(built: "Built", *, run_id: str, start: str | None = None, generation: int = 0) -> Recipe:
    """The recipe of a built experiment.

    `start` is the digest of a checkpoint that it starts from. `generation` counts how often its first steps gave
    another result than before, although all known parts of the recipe were the same.
    """
    experiment, data = built.experiment, built.data
    rest = {
        "data": f"{data.name} {data.digest[:16]}",
        "seed": experiment.seed,
        "batch_size": experiment.batch_size,
        "precision": built.precision,
        "compile": experiment.compile,
        "device": describe_device(built.device),
        "torchvision": importlib.metadata.version("torchvision"),
        INITIAL: weights_digest(built),
    }
    if built.spec.packages:
        rest["packages"] = ", ".join(f"{name} {version}" for name, version in sorted(built.spec.packages.items()))
    if data.workers:
        rest["workers"] = data.workers  # each draws for itself
    if experiment.epoch_steps is not None:
        rest["epoch_steps"] = experiment.epoch_steps
    if built.device.type == "cpu":
        rest["threads"] = choose_threads(experiment.threads)
    if built.is_demo:
        rest["demo"] = "narrow networks"
    if start is not None:
        rest["start"] = start
    if generation:
        rest["generation"] = generation
    private = built.proof.private
    if private is not None:
        private = f"{private} on {built.device} ({run_id})"
    elif built.parts.schedulers and experiment.scheduler_step == "batch":
        code = code_digests(built.spec, scheduler=True)
        private = f"the scheduler steps every batch {experiment.params()} {experiment.epochs} epochs {code}"
    return build_recipe(built.spec, experiment.values(), built.reads, rest, private)


def weights_digest(built: "Built") -> str:
    """A digest of all weights and buffers as they were built: of the model, the loss, and modules on `self`."""
    digest = hashlib.sha256()
    seen: set[int] = set()
    for name, module in built.parts.modules():
        for tensor in tensors_in(module):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
                digest.update(as_bytes(tensor).numpy().data)
    return digest.hexdigest()[:16]


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
    files = [PACKAGE / "experiment.py"]  # the default step and loss
    files += [file for folder in ("data", "models", "training") for file in sorted((PACKAGE / folder).rglob("*.py"))]
    for file in files:
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
