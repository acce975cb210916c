"""Everything that a training step can reach: its tensors on the device, and what it keeps on the host.

A CUDA graph has the addresses of the former built in, and everything that followed from the latter.
"""

import random
import types
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from harness.data import Arrays, Data
from harness.training.fused import DeviceRates
from harness.training.hidden import closure_of, globals_of
from harness.training.parts import Parts
from harness.training.state import OF_SCHEDULERS

DEEPEST = 12
LARGE = 65_536  # elements of an array or of a tensor on the host, from which on only its version is looked at
PLAIN = (bool, int, float, complex, str, bytes, type(None))
HELD = (*PLAIN, list, dict, set, Tensor)
NOT_ENTERED = (type, types.ModuleType, types.BuiltinFunctionType, torch.device, torch.dtype, DeviceRates, Data, Arrays)
OF_OPTIMIZERS = frozenset(("state", "param_groups"))  # looked at by themselves
NO_OPTIONS = frozenset(("lr", "params", "param_names")) | OF_SCHEDULERS  # the learning rate is no part of a graph
UNNAMED = frozenset(("_modules", "_parameters", "_buffers"))  # what holds a module's own, under names of its own
COMPILED = "_compiled_call_impl"


class Reach:
    """What was found.

    `tensors` are those on the device, without the `states` of the optimizers; `host` is a text for each value on the
    host, by its name in words.
    """

    def __init__(self, parts: Parts, device: torch.device) -> None:
        self.tensors: list[Tensor] = []
        self.states: list[Tensor] = []
        self.host: dict[str, str] = {}
        self._device, self._spec = device, type(parts.experiment).__module__
        # Optimizers are entered by themselves; a scheduler's counters change between steps, not in them.
        self._seen = {id(one) for one in (*parts.optimizers.values(), *parts.schedulers.values())}
        for name, module in parts.modules():
            self._enter(name, module, 0)
        self._enter("the loss", parts.loss, 0)
        for name, value in parts.experiment.attributes().items():
            self._enter(f"self.{name}", value, 0)
        for name, measure in parts.measures.items():
            self._enter(f"metric {name}", measure, 0)
        for number, optimizer in enumerate(parts.optimizers.values()):
            self._enter_optimizer("the optimizer" if not number else f"optimizer {number}", optimizer)
        self._enter_class("self", type(parts.experiment), 0)
        for name, value in globals_of(type(parts.experiment)):
            self._enter(f"the global {name}", value, 0)

    def is_where(self, before: "Reach") -> bool:
        """Whether all is as it was, and where it was: a graph of then still stands."""
        states = [[state.data_ptr() for state in reach.states] for reach in (self, before)]
        return states[0] == states[1] and not self.changed_since(before)

    def changed_since(self, before: "Reach") -> list[str]:
        """The names of what is not as it was, beside the optimizers' states."""
        names = [name for name in before.host if self.host.get(name) != before.host[name]]
        return names + [name for name in self.host if name not in before.host]

    def _enter_optimizer(self, name: str, optimizer: Optimizer) -> None:
        for number, group in enumerate(optimizer.param_groups):
            options = {key: value for key, value in group.items() if key not in NO_OPTIONS}
            self._enter(f"group {number} of {name}", options, 0)
        states = (value for held in optimizer.state.values() for value in held.values())
        self.states += [value for value in states if self._is_on_device(value)]
        self._enter_all(name, ((k, value) for k, value in vars(optimizer).items() if k not in OF_OPTIMIZERS), 0)

    def _enter(self, name: str, value: Any, depth: int) -> None:
        if isinstance(value, PLAIN):
            self.host[name] = repr(value)
            return
        if id(value) in self._seen or depth > DEEPEST or isinstance(value, NOT_ENTERED):
            return
        self._seen.add(id(value))
        if isinstance(value, Tensor):
            self._enter_tensor(name, value)
        elif isinstance(value, np.ndarray):
            self.host[name] = str(hash(value.tobytes())) if value.size < LARGE and not value.dtype.hasobject else ""
        elif (state := _generator_state(value)) is not None:
            self.host[name] = state
        elif isinstance(value, Mapping):
            self._enter_all(name, ((str(key), item) for key, item in list(value.items())), depth)
        elif isinstance(value, list | tuple | set | frozenset | deque):
            self.host[f"the length of {name}"] = str(len(value))
            self._enter_all(name, ((str(place), item) for place, item in enumerate(value)), depth)
        elif isinstance(value, types.MethodType):
            self._enter(name, value.__self__, depth + 1)
            self._enter(name, value.__func__, depth + 1)
        elif isinstance(value, types.FunctionType):
            self._enter_all(name, closure_of(value), depth)
            self._enter_all(name, vars(value).items(), depth)
        elif hasattr(value, "__dict__"):
            self._enter_all(name, vars(value).items(), depth)
            self._enter_class(name, type(value), depth)

    def _enter_class(self, name: str, cls: type, depth: int) -> None:
        """What a class of the spec's file holds for all its objects."""
        for owner in cls.__mro__:
            if owner.__module__ == self._spec:
                held = ((key, value) for key, value in vars(owner).items() if isinstance(value, HELD))
                self._enter_all(name, held, depth)

    def _enter_all(self, name: str, items: Any, depth: int) -> None:
        for key, value in list(items):
            if key != COMPILED and not key.startswith("__"):
                self._enter(name if key in UNNAMED else f"{name}.{key}", value, depth + 1)

    def _enter_tensor(self, name: str, tensor: Tensor) -> None:
        self.host[f"whether {name} is trained"] = str(tensor.requires_grad)
        if self._is_on_device(tensor):
            self.tensors.append(tensor)
            self.host[f"the memory of {name}"] = str(tensor.data_ptr())
        elif tensor.layout == torch.strided and tensor.numel() < LARGE and not nn.parameter.is_lazy(tensor):
            self.host[name] = str(tensor.detach().cpu().tolist())
        else:
            self.host[name] = "" if tensor.is_inference() else str(tensor._version)

    def _is_on_device(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.device.type == self._device.type


def _generator_state(value: Any) -> str | None:
    if isinstance(value, random.Random):
        return str(hash(value.getstate()))
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return repr(value.get_state())
    return str(value.get_state().tolist()) if isinstance(value, torch.Generator) else None
