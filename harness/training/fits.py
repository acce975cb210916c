"""Checks that a saved state fits the model and the optimizer. A wrong one could corrupt memory in a fused update."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.optim import Optimizer

from harness.errors import FAILED, HarnessError

# Torch's optimizers with one value for each weight, except those of ONE_VALUE. Other optimizers check in Python.
ELEMENTWISE = (
    *(optim.SGD, optim.Adam, optim.AdamW, optim.NAdam, optim.RAdam, optim.Adamax, optim.SparseAdam),
    *(optim.Adagrad, optim.Adadelta, optim.ASGD, optim.RMSprop, optim.Rprop),
)
ONE_VALUE = ("step", "eta", "mu", "mu_product")


class Unfit(HarnessError):
    """A state does not fit the model or the optimizer. The message says what differs."""


def check_weights(model: nn.Module, weights: Any) -> None:
    """Raises `Unfit` if the weights do not fit the model: other names, or other shapes."""
    if not isinstance(weights, Mapping):
        raise _unfit(f"the weights are a {type(weights).__name__}, not a dict")
    own = model.state_dict()
    for name in (*own, *weights):
        if name not in own or name not in weights:
            raise _unfit(f"{name} is {'missing' if name in own else 'not part of the model'}")
        wanted, found = own[name], weights[name]
        if not isinstance(wanted, Tensor):  # a module's extra state
            continue
        if not isinstance(found, Tensor) or found.shape != wanted.shape:
            raise _unfit(f"{name} is {_describe(found)}, but the model's is {_describe(wanted)}")


def check_optimizer(optimizer: Optimizer, saved: Any) -> None:
    """Raises `Unfit` if the saved state of an optimizer has tensors that do not fit its parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = saved.get("state") if isinstance(saved, Mapping) else None
    if not isinstance(state, Mapping):
        raise _unfit("the optimizer has no state by parameter")
    for number, held in state.items() if isinstance(optimizer, ELEMENTWISE) else ():
        if not isinstance(number, int) or not 0 <= number < len(parameters):
            raise _unfit(f"the optimizer's state names parameter {number!r}, but there are {len(parameters)}")
        if not isinstance(held, Mapping):
            raise _unfit(f"the optimizer's state of parameter {number} is a {type(held).__name__}, not a dict")
        for name, value in held.items():
            _check_value(f"{name} of parameter {number}", name, value, parameters[number])


def _check_value(what: str, name: str, value: Any, parameter: Tensor) -> None:
    if name in ONE_VALUE:
        if isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1):
            return
        raise _unfit(f"{what} is {_describe(value)}, not one number")
    if value is None or (
        isinstance(value, Tensor) and value.shape == parameter.shape and _kind(value) == _kind(parameter)
    ):
        return
    raise _unfit(f"{what} is {_describe(value)}, but the parameter is {_describe(parameter)}")


def _kind(tensor: Tensor) -> tuple[bool, bool, torch.layout]:
    """What a cast does not change: bfloat16 can replace float32; an integer or a sparse tensor cannot."""
    return tensor.is_floating_point(), tensor.is_complex(), tensor.layout


def _describe(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    shape = "x".join(map(str, value.shape)) or "one number"
    layout = "" if value.layout == torch.strided else f" {str(value.layout).removeprefix('torch.')}"
    return f"{shape} of {str(value.dtype).removeprefix('torch.')}{layout}"


def _unfit(reason: str) -> Unfit:
    return Unfit(f"the saved state does not fit: {reason}.", exit_code=FAILED)
