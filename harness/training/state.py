"""States: what an epoch starts from and ends with. Captured as clones, restored as clones."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from harness.training.fits import check_optimizer, check_weights

Knobs = list[dict[str, Any]]


def capture(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Copies of the model's and the optimizer's state on the CPU, as `state_dict` and `optimizer`."""
    return {"state_dict": _copy(dict(model.state_dict())), "optimizer": _copy(optimizer.state_dict())}


def restore(model: nn.Module, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Puts a captured state back; raises `Unfit`, with nothing changed, where it is not one of these.

    The optimizer keeps its present learning rate and other options: they are the scheduler's to choose.
    Its tensors are cloned, because `load_state_dict` keeps those that it is given and then updates them, and
    laid out in memory as their parameters are: a fused update on a CPU goes through both in the order of memory,
    and another loop's momentum (contiguous, where a convolution's weight is channels_last) would be scrambled.
    """
    check_weights(model, state["state_dict"])
    check_optimizer(optimizer, state.get("optimizer"))
    model.load_state_dict(state["state_dict"])
    tensors = _copy(state["optimizer"]["state"])
    optimizer.load_state_dict({"state": tensors, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, held in optimizer.state.items():
        for name, value in held.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                held[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def read_knobs(optimizer: Optimizer) -> Knobs:
    """The options of each parameter group that a scheduler may turn: learning rate, momentum and so on."""
    return [{name: _plain(group[name]) for name in sorted(optimizer.defaults)} for group in optimizer.param_groups]


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # a tensor, or NumPy's numbers
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copy(item) for item in value)
    return value


def same_bits(left: Any, right: Any) -> bool:
    """Whether two states hold the same values, bit for bit (NaN equals NaN)."""
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return left.dtype == right.dtype and left.shape == right.shape and _bytes(left) == _bytes(right)
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same_bits(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same_bits, left, right))
    return bool(left == right)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
