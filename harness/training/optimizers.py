"""torch's optimizers without their import of torch's compiler, which takes a second and is not needed to train."""

import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch


def unwrap_optimizers() -> None:
    """Takes off what only tells torch's compiler to leave an optimizer alone; one that is compiled is not left alone.

    The first optimizer of a process imports the compiler for that. What the wrappers do otherwise stays: a step
    records gradients only where the optimizer is `differentiable`.
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
