"""Prevents torch's optimizers from importing torch's compiler, which takes a second and is not needed."""

import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch


def unwrap_optimizers() -> None:
    """Removes the wrappers that tell torch's compiler to skip an optimizer. Not used with `compile = True`.

    Without this, the first optimizer of a process imports the compiler. The other effect of the wrappers is kept: a
    step records gradients only if the optimizer is `differentiable`.
    """
    for kind in [found for found in vars(torch.optim).values() if isinstance(found, type)]:
        for name, method in list(vars(kind).items()):
            if not isinstance(method, FunctionType) or not hasattr(method, "__wrapped__"):
                continue
            if method.__code__.co_name == "_use_grad":
                setattr(kind, name, _recording_as_chosen(method.__wrapped__))
            elif method.__globals__["__name__"] == "torch._compile":
                setattr(kind, name, method.__wrapped__)


def _recording_as_chosen(step: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(step)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return step(self, *args, **kwargs)

    return run
