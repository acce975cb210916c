"""A GPU that is not there: torch's fake tensors on the device `cuda`, which have shapes and devices, and no values.

An operation on tensors of two devices raises, as on a GPU. What wants a driver is stood in for: generators, the
backward pass, fused updates, values that are read.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily

from harness.data import augment, resident
from harness.training import capturing

GPU = torch.device("cuda", 0)


class Generator(torch.Generator):
    """A CPU's generator that says it is the GPU's."""

    device = GPU  # type: ignore[assignment]


@contextmanager
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    """Inside the block, tensors on `GPU` can be made and computed with."""
    generator_for = augment.generator_for

    def fake_generator(seed: int, epoch: int | str, device: torch.device) -> torch.Generator:
        if device.type == "cpu":
            return generator_for(seed, epoch, device)
        return Generator().manual_seed(augment.number_for(seed, epoch))

    with monkeypatch.context() as patch, FakeTensorMode(allow_non_fake_inputs=True) as mode:
        patch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
        patch.setattr(torch.cuda, "get_device_name", lambda _: "a pretended GPU")
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
        patch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
        patch.setattr(augment, "generator_for", fake_generator)
        patch.setattr(resident, "generator_for", fake_generator)
        patch.setattr(nn.Module, "_apply", _apply)
        patch.setattr(Tensor, "backward", _backward)
        patch.setattr(FakeTensor, "tolist", _tolist)
        patch.setattr(FakeTensor, "item", lambda _: 1.0)
        patch.setattr(FakeTensor, "data_ptr", lambda self: id(self))
        patch.setattr(torch, "_fused_sgd_", _fused)
        patch.setattr(torch, "_fused_adam_", _fused)
        patch.setattr(torch, "_fused_adamw_", _fused)
        patch.setattr(capturing, "SEGMENTS", (1,))
        patch.setattr(capturing, "no_waiting", nullcontext)
        patch.setattr(capturing, "graph_of", lambda step, *_: step)
        patch.setattr(capturing, "same_bits", lambda *_: True)
        patch.setattr(capturing, "_generators", lambda _: {"the device": torch.zeros(1)})
        patch.setattr(capturing, "_set_generators", lambda *_: None)
        yield mode


def _apply(module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """As torch's, which cannot exchange a parameter for a fake one."""
    for child in module.children():
        _apply(child, change)
    for name, parameter in module._parameters.items():
        if isinstance(parameter, nn.UninitializedParameter):
            parameter.materialize = _into(module._parameters, name, lambda *shape: nn.Parameter(change(_empty(*shape))))
        elif parameter is not None:
            module._parameters[name] = nn.Parameter(change(parameter.detach()), parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if isinstance(buffer, nn.UninitializedBuffer):
            buffer.materialize = _into(module._buffers, name, lambda *shape: change(_empty(*shape)))
        elif buffer is not None:
            module._buffers[name] = change(buffer)
    return module


def _into(held: dict[str, Any], name: str, make: Callable[..., Tensor]) -> Callable[..., None]:
    """What a lazy layer calls once it knows a shape: the tensor lies where the layer was moved to."""

    def materialize(*shape: Any, **_: Any) -> None:
        held[name] = make(*shape)

    return materialize


def _empty(*shape: Any) -> Tensor:
    return torch.empty(*shape)


def _backward(value: Tensor, *_: Any, **__: Any) -> None:
    """Gradients for all that the value was computed from, where it lies."""
    assert value.dim() == 0
    waiting, seen = [value.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            leaf.grad = torch.empty_like(leaf) if leaf.grad is None else leaf.grad + torch.empty_like(leaf)
        waiting += [before for before, _ in node.next_functions]


def _fused(*lists: Any, lr: Any, **_: Any) -> None:
    tensors = [tensor for given in lists for tensor in given] + ([lr] if isinstance(lr, Tensor) else [])
    assert isinstance(lr, Tensor), "the learning rate is on the device"
    assert {tensor.device for tensor in tensors} == {GPU}, "an update of tensors on two devices"


def _tolist(tensor: FakeTensor) -> Any:
    shape = tuple(tensor.shape)
    with unset_fake_temporarily():
        return torch.ones(shape).tolist()
