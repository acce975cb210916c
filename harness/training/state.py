"""The state that an epoch starts from. Captured as clones, and restored as clones into fresh objects."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from harness.training.attributes import capture_attributes, copy_to_cpu, restore_attributes, unsaved_buffers
from harness.training.fits import check_optimizer, check_weights
from harness.training.parts import Parts, by_name, like

Knobs = list[dict[str, Any]]  # of each parameter group, of all optimizers in order
OF_SCHEDULERS = frozenset(("initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr"))
FROZEN = "frozen"  # among a group's knobs: the places of the parameters that need no gradient


def capture(parts: Parts) -> dict[str, Any]:
    """A run's state, as copies on the CPU.

    `state_dict` and `optimizer` are always there. Some runs also have `buffers` (those of the model that its
    `state_dict()` leaves out), `loss` (of a loss that is a module), `frozen` (parameters of the model that need no
    gradient), `gradients`, `scaler` (of float16) and `attributes` (what the spec put on `self`).
    """
    state: dict[str, Any] = {
        "state_dict": copy_to_cpu(parts.model.state_dict()),
        "optimizer": like(parts.optimizer, {n: copy_to_cpu(o.state_dict()) for n, o in parts.optimizers.items()}),
        "frozen": [name for name, parameter in parts.model.named_parameters() if not parameter.requires_grad],
    }
    if buffers := unsaved_buffers(parts.model):
        state["buffers"] = copy_to_cpu(buffers)
    if isinstance(parts.loss, nn.Module) and (own := _tensors_of(parts.loss)):
        state["loss"] = copy_to_cpu(own)
    if parts.scaler is not None:
        state["scaler"] = parts.scaler.state_dict()
    if parts.keeps_gradients:
        state["gradients"] = capture_gradients(parts)
    attributes, _ = capture_attributes(parts.experiment.attributes(), held=_held(parts), versions=parts.versions)
    if attributes:
        state["attributes"] = attributes
    return state


def capture_gradients(parts: Parts) -> dict[str, Tensor]:
    """Copies of the gradients that the parameters of the model and the loss have."""
    return {name: copy_to_cpu(p.grad) for name, p in _parameters(parts).items() if p.grad is not None}


def restore(parts: Parts, state: Mapping[str, Any]) -> None:
    """Puts a captured state into freshly built parts; raises `Unfit` if it does not fit them.

    Optimizers keep their present learning rates and other options: the scheduler sets those.
    """
    restore_networks(parts, state)
    for name, optimizer in parts.optimizers.items():
        _load_optimizer(optimizer, by_name(parts.optimizer, state["optimizer"])[name])
    if parts.scaler is not None and "scaler" in state:
        parts.scaler.load_state_dict(state["scaler"])
    parameters = _parameters(parts)
    for name, gradient in state.get("gradients", {}).items():
        parameters[name].grad = torch.empty_like(parameters[name]).copy_(gradient)


def restore_networks(parts: Parts, state: Mapping[str, Any]) -> None:
    """Restores what outputs and the loss are computed from: the model, the loss, and the attributes."""
    check_weights(parts.model, state["state_dict"])
    for name, optimizer in parts.optimizers.items() if "optimizer" in state else ():
        check_optimizer(optimizer, by_name(parts.optimizer, state["optimizer"]).get(name))
    parts.model.load_state_dict(state["state_dict"])
    with torch.no_grad():
        _copy_into(unsaved_buffers(parts.model), state.get("buffers", {}))
        if isinstance(parts.loss, nn.Module):
            _copy_into(_tensors_of(parts.loss), state.get("loss", {}))
    if "frozen" in state:
        frozen = set(state["frozen"])
        for name, parameter in parts.model.named_parameters():
            parameter.requires_grad_(name not in frozen)
    device = next((tensor.device for tensor in parts.model.state_dict().values()), torch.device("cpu"))
    restore_attributes(parts.experiment, state.get("attributes", {}), device)


def not_storable(parts: Parts) -> list[str]:
    """The attributes that no checkpoint can hold."""
    return capture_attributes(parts.experiment.attributes(), held=_held(parts), versions=parts.versions)[1]


def _load_optimizer(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Loads an optimizer's tensors.

    They are cloned, because `load_state_dict` keeps the tensors that it is given, and training then changes them.
    They get the memory layout of their parameters: a fused update on a CPU reads both in the order of memory. The
    momentum of another loop (contiguous, for a channels_last weight) would be scrambled.
    """
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": copy_to_cpu(saved["state"]), "param_groups": groups})
    for parameter, held in optimizer.state.items():
        for name, value in held.items() if isinstance(parameter, Tensor) and isinstance(held, dict) else ():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                held[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _copy_into(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    for name, tensor in own.items():
        if name in saved:
            tensor.copy_(saved[name])


def _tensors_of(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _parameters(parts: Parts) -> dict[str, nn.Parameter]:
    of_loss = parts.loss.named_parameters() if isinstance(parts.loss, nn.Module) else ()
    return {f"model.{name}": p for name, p in parts.model.named_parameters()} | {f"loss.{n}": p for n, p in of_loss}


def _held(parts: Parts) -> list[Any]:
    """Objects that are captured anyway, and so are no attributes, even if the spec keeps them on `self` too."""
    return [parts.model, parts.loss, *parts.optimizers.values(), *parts.schedulers.values()]


def read_knobs(optimizers: Mapping[str, Optimizer]) -> Knobs:
    """The options of each parameter group that may change: learning rate, momentum, what is frozen, and so on."""
    knobs = []
    for group in (group for optimizer in optimizers.values() for group in optimizer.param_groups):
        options = {name: _plain(value) for name, value in sorted(group.items()) if _is_knob(name, value)}
        frozen = [place for place, parameter in enumerate(group["params"]) if not parameter.requires_grad]
        knobs.append(options | ({FROZEN: frozen} if frozen else {}))
    return knobs


def set_knobs(optimizers: Mapping[str, Optimizer], knobs: Knobs) -> None:
    """Gives each parameter group these options."""
    groups = [group for optimizer in optimizers.values() for group in optimizer.param_groups]
    for group, options in zip(groups, knobs, strict=True):
        frozen = set(options.get(FROZEN, ()))
        for place, parameter in enumerate(group["params"]):
            if parameter.requires_grad == (place in frozen):
                parameter.requires_grad_(place not in frozen)
        for name, value in options.items():
            if name == FROZEN:
                continue
            if isinstance(group.get(name), tuple):
                group[name] = tuple(value)
            elif isinstance(group.get(name), Tensor):
                group[name].fill_(value)
            else:
                group[name] = value


def _is_knob(name: str, value: Any) -> bool:
    if name in ("params", "param_names") or name in OF_SCHEDULERS:
        return False
    if isinstance(value, tuple | list):
        return all(_is_knob("", item) for item in value)
    return isinstance(value, bool | int | float | str | None) or hasattr(value, "tolist")


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # a tensor, or NumPy's numbers
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def same_bits(left: Any, right: Any) -> bool:
    """Whether two states hold the same values, bit for bit (NaN equals NaN)."""
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return left.dtype == right.dtype and left.shape == right.shape and torch.equal(as_bytes(left), as_bytes(right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same_bits(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same_bits, left, right))
    return bool(left == right or (left != left and right != right))


class TensorDigest(str):
    """The type, shape and digest of a tensor."""


def with_digests(value: Any) -> Any:
    """A state with a `TensorDigest` in place of each tensor: to be compared by `same_bits`, in little memory."""
    if isinstance(value, Tensor):
        return TensorDigest(
            f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(as_bytes(value).numpy().data).hexdigest()}"
        )
    if isinstance(value, dict):
        return {key: with_digests(item) for key, item in value.items()}
    return [with_digests(item) for item in value] if isinstance(value, list | tuple) else value


def as_bytes(tensor: Tensor) -> Tensor:
    """The values of a tensor as uint8 on the CPU, in the order of its dimensions, whatever its layout in memory."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
