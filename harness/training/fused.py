"""Fused updates: one kernel for all parameters, on a GPU with the learning rate in the device's memory."""

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

FUSED = (SGD, Adam, AdamW)  # whose fused update takes the learning rate as a tensor


class DeviceRates:
    """The learning rates of an optimizer's fused groups as tensors on the device, for the time of each update.

    A CUDA graph reads them there, and an update outside of a graph does as well: a rate from the device is rounded
    to float32, which a plain number is not in every version of torch. Between updates the groups hold plain numbers.
    """

    def __init__(self, optimizer: Optimizer, device: torch.device) -> None:
        self._tensors = [torch.zeros((), device=device) for _ in optimizer.param_groups]
        self._written: list[float | None] = [None for _ in optimizer.param_groups]
        self._chosen: list[Any] | None = None  # what the groups hold, while they are lent the tensors
        optimizer.register_step_pre_hook(self._lend)
        optimizer.register_step_post_hook(self._take_back)

    def write(self, optimizer: Optimizer) -> None:
        """Brings the present learning rates to the device. Does nothing where they are there already."""
        for place, (tensor, group) in enumerate(zip(self._tensors, optimizer.param_groups, strict=False)):
            rate = float(group["lr"]) if _is_plain(group, tensor) else None
            if rate is not None and rate != self._written[place]:
                tensor.fill_(rate)
                self._written[place] = rate

    def _lend(self, optimizer: Optimizer, *_: Any) -> None:
        self._take_back(optimizer)  # where an update before this one was broken off
        self.write(optimizer)
        self._chosen = [group["lr"] for group in optimizer.param_groups]
        for tensor, group in zip(self._tensors, optimizer.param_groups, strict=False):
            if _is_plain(group, tensor):
                group["lr"] = tensor

    def _take_back(self, optimizer: Optimizer, *_: Any) -> None:
        for group, rate in zip(optimizer.param_groups, self._chosen or (), strict=False):
            group["lr"] = rate
        self._chosen = None


_RATES: WeakKeyDictionary[Optimizer, DeviceRates] = WeakKeyDictionary()


def keep_rates(optimizer: Optimizer, device: torch.device) -> None:
    """From now on, the optimizer's fused updates take their learning rates from the device."""
    _RATES[optimizer] = DeviceRates(optimizer, device)


def write_rates(optimizer: Optimizer) -> None:
    """Brings the present learning rates to the device, for a graph that is about to be replayed."""
    if optimizer in _RATES:
        _RATES[optimizer].write(optimizer)


def fuse(optimizer: Optimizer, model: nn.Module, device: torch.device) -> None:
    """Makes the update one kernel, on a GPU one that reads its learning rate there. The same in and out of a graph.

    Left as it is where the user chose how to update, and where torch's fused kernels refuse the parameters, or go
    through their memory as if it were dense.
    """
    if type(optimizer) not in FUSED or device.type not in ("cuda", "cpu"):
        return
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
    sparse = {id(module.weight) for module in embeddings if module.sparse}
    for group in optimizer.param_groups:
        is_chosen = group["foreach"] is not None or group["fused"] is not None or group["differentiable"]
        fits = all(p.is_floating_point() and is_dense(p) and id(p) not in sparse for p in group["params"])
        if not is_chosen and fits and not group.get("dampening"):
            group["fused"] = True
            if "capturable" in group and device.type == "cuda":
                group["capturable"] = True
    if type(optimizer) is SGD:
        optimizer.register_step_pre_hook(_begin_momentum)
    if device.type == "cuda":
        keep_rates(optimizer, device)


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor fills its memory without gaps and overlaps, in whatever order of dimensions.

    >>> import torch
    >>> is_dense(torch.zeros(3, 4).t()), is_dense(torch.zeros(3, 4)[:, :2]), is_dense(torch.zeros(3, 1).expand(3, 4))
    (True, False, False)
    """
    filled = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride != filled:
            return False
        filled *= size
    return True


def _is_plain(group: dict[str, Any], tensor: Tensor) -> bool:
    """Whether a fused group's learning rate is not on the device already, by the user's choice."""
    rate = group["lr"]
    return bool(group.get("fused")) and not (isinstance(rate, Tensor) and rate.device.type == tensor.device.type)


def _begin_momentum(optimizer: Optimizer, *_: Any) -> None:
    """Momentum of 0 for parameters that had no gradient before: SGD's fused step wants all of it, or none."""
    if len(optimizer.state) in (0, sum(len(group["params"]) for group in optimizer.param_groups)):
        return
    for group in optimizer.param_groups:
        if group["fused"] and group["momentum"]:
            for parameter in group["params"]:
                if parameter.grad is not None and optimizer.state[parameter].get("momentum_buffer") is None:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
