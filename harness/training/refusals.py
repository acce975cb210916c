"""Checks a first training step, and turns its errors into sentences that say what to write instead."""

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harness.errors import HarnessError
from harness.experiment import Experiment

if TYPE_CHECKING:
    from harness.training.build import Built

RECIPES = "docs/recipes.md"


def check_outputs(built: "Built", returned: Any, targets: Tensor) -> None:
    """Raises `HarnessError` if a step did not return the loss, and outputs that fit the targets."""
    path = built.spec.path
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise HarnessError(
            f"{path}: step() returns {_kind(returned)}; return two values: the loss, and the outputs that the metrics "
            "are measured on (or None)."
        )
    value, outputs = returned
    check_loss(built, value)
    if outputs is None:
        return
    if not isinstance(outputs, Tensor):
        raise HarnessError(f"{path}: step() returns {_kind(outputs)} as outputs; return one tensor, or None.")
    check_shape(built, outputs, targets)


def check_loss(built: "Built", value: Any) -> None:
    """Raises `HarnessError` if a loss is not one number."""
    if not isinstance(value, Tensor) or value.dim() != 0:
        raise HarnessError(
            f"{built.spec.path}: the loss must be one number, a mean over the batch. It is {_kind(value)}."
        )


def check_shape(built: "Built", outputs: Tensor, targets: Tensor) -> None:
    """Raises `HarnessError` if the outputs do not fit the classes or targets of the data."""
    path, data = built.spec.path, built.data
    if data.is_classification:
        if outputs.dim() != 2 or outputs.shape[1] != data.num_classes:
            shape = tuple(outputs.shape[1:])
            found = str(shape[0]) if len(shape) == 1 else f"shape {shape} of"
            raise HarnessError(
                f"{path}: the model gives {found} outputs an image, but data() has {data.num_classes} classes."
            )
    elif outputs.shape[1:] != targets.shape[1:]:
        raise HarnessError(
            f"{path}: the model gives outputs of shape {tuple(outputs.shape[1:])} an example, "
            f"but data() has targets of shape {tuple(targets.shape[1:])}."
        )


def explain_step(built: "Built", error: Exception) -> None:
    """Raises `HarnessError` if an error of the default step has a known cause; returns if it has not."""
    if type(built.experiment).step is not Experiment.step:
        return
    path = built.spec.path
    for optimizer in built.parts.optimizers.values():
        if _wants_closure(optimizer, error):
            raise HarnessError(
                f"{path}: {type(optimizer).__name__}.step() needs a closure, so write step() yourself: "
                "`def step(self, model, loss, optimizer, inputs, targets):` with the closure, or with the two passes "
                f"that it stands for; {RECIPES} has them (SAM, LBFGS)."
            ) from error
    if len(built.parts.optimizers) > 1 or not hasattr(built.parts.optimizer, "zero_grad"):
        raise HarnessError(
            f"{path}: optimizer() returns {_kind(built.parts.optimizer)} of optimizers, so write step() yourself: call "
            "`zero_grad(set_to_none=True)` and `step()` of each, `for one in optimizer` "
            f'(a dict: `optimizer.values()`); see {RECIPES}, "Two optimizers".'
        ) from error
    built.renew()
    inputs, targets = next(iter(built.data.batches(built.data.train, batch_size=2, device=built.device)))
    try:
        with torch.no_grad():
            outputs = built.model.train()(inputs)
    except Exception:  # an error of the model itself is the user's, and is shown with its traceback
        return
    if not isinstance(outputs, Tensor):
        raise HarnessError(
            f"{path}: the model returns {_kind(outputs)} in training, so write step() yourself: take apart what "
            "`model(inputs)` returns, and return the loss and one tensor of outputs; "
            f"{RECIPES} has it (auxiliary heads)."
        ) from error
    check_shape(built, outputs.float(), targets)
    try:
        value = built.parts.loss(outputs.float(), targets)
    except Exception:
        return
    check_loss(built, value)


def _wants_closure(optimizer: Any, error: Exception) -> bool:
    parameter = inspect.signature(type(optimizer).step).parameters.get("closure")
    is_required = parameter is not None and parameter.default is parameter.empty
    return is_required or "closure" in str(error)


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    name = type(value).__name__
    return "nothing" if value is None else f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
