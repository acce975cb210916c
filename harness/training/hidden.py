"""Finds values that training changes and no checkpoint has, to name them if a rehearsal shows that they matter."""

import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from harness.training.attributes import copy_to_cpu, tensors_in
from harness.training.state import same_bits

if TYPE_CHECKING:
    from harness.training.build import Built

Hidden = dict[str, Any]
OF_MODULES = frozenset(vars(nn.Module())) | {"training"}
OF_OPTIMIZERS = frozenset(("state", "param_groups", "defaults", "step"))


def note_hidden(built: "Built") -> Hidden:
    """Copies of values that could change without being in a checkpoint."""
    own = _own_tensors(built)
    return {key: copy_to_cpu(value) for key, _, value in _candidates(built) if _is_comparable(value, own)}


def find_hidden(built: "Built", before: Hidden) -> tuple[list[str], list[str]]:
    """The values that changed since they were noted, or are new, in words: counters, and others."""
    counters: list[str] = []
    others: list[str] = []
    own = _own_tensors(built)
    for key, words, value in _candidates(built):
        if _is_comparable(value, own) and not (key in before and same_bits(before[key], copy_to_cpu(value))):
            is_counter = isinstance(value, int | float) and not isinstance(value, bool)
            (counters if is_counter else others).append(words)
    return counters, others


def closure_of(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The variables that a function keeps from where it was defined."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not filled yet
            continue


def globals_of(cls: type) -> Iterator[tuple[str, Any]]:
    """The globals of a spec's file that a step may change: values, containers, tensors, and objects of its classes."""
    methods = (value for value in vars(cls).values() if isinstance(value, types.FunctionType))
    method = next(methods, None)
    for name, value in list(method.__globals__.items()) if method is not None else ():
        is_own = type(value).__module__ == cls.__module__
        if not name.startswith("__") and (is_own or isinstance(value, dict | list | set | int | float | Tensor)):
            yield name, value


def _candidates(built: "Built") -> Iterator[tuple[str, str, Any]]:
    """Values that no `state_dict()` has: a key, a description, and the value."""
    parts = built.parts
    for what, module in parts.modules():
        for path, inner in module.named_modules():
            where = f"{type(inner).__name__} in {what}" if path else what
            for name, value in vars(inner).items():
                if name not in OF_MODULES and not name.startswith("_"):
                    yield f"{what}.{path}.{name}", f"the attribute {name} of {where}", value
            for place, hook in enumerate(_hooks(inner)):
                yield from _closure(hook, f"{what}.{path}.hook{place}", f"a hook of {what}")
    for number, optimizer in enumerate(parts.optimizers.values()):
        for name, value in vars(optimizer).items():
            if name not in OF_OPTIMIZERS and not name.startswith("_"):
                yield f"optimizer{number}.{name}", f"the attribute {name} of {type(optimizer).__name__}", value
        for place, hook in enumerate(_hooks(optimizer)):
            yield from _closure(hook, f"optimizer{number}.hook{place}", "a hook of the optimizer")
    yield from _closure(parts.loss, "loss", "the loss")
    for name, value in globals_of(type(parts.experiment)):
        yield f"global.{name}", f"the global {name}", value


def _hooks(owner: Any) -> Iterator[Any]:
    for name, value in vars(owner).items():
        if name.endswith("_hooks") and isinstance(value, dict):
            yield from value.values()


def _closure(function: Any, key: str, where: str) -> Iterator[tuple[str, str, Any]]:
    inner = getattr(function, "__func__", function)
    if isinstance(inner, types.FunctionType):
        for name, value in closure_of(inner):
            yield f"{key}.{name}", f"{name} in {where}", value


def _own_tensors(built: "Built") -> set[int]:
    """The tensors that a checkpoint holds."""
    return {id(tensor) for _, module in built.parts.modules() for tensor in tensors_in(module)}


def _is_comparable(value: Any, own: set[int]) -> bool:
    if isinstance(value, Tensor):
        return id(value) not in own
    if isinstance(value, int | float | str | bytes | bool | None):
        return True
    if isinstance(value, dict):
        return all(_is_comparable(item, own) for item in value.values())
    return isinstance(value, list | tuple | set) and all(_is_comparable(item, own) for item in value)
