"""What a spec keeps on `self`: captured as plain values, and put back into objects that were built afresh."""

import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

LARGE_BYTES = 2**20  # bytes: a larger attribute that training does not change is not stored
PLAIN = (bool, int, float, str, bytes, type(None))
STATE, BUFFERS, ARRAY, GENERATOR, QUEUE = "__state_dict__", "__buffers__", "__array__", "__generator__", "__deque__"
Versions = dict[str, tuple[tuple[int, int], ...]]


class NotStorable(Exception):
    """A value that is neither plain, a tensor, a container of these, nor has a `state_dict()`."""


def capture_attributes(
    attributes: Mapping[str, Any], *, held: Sequence[Any], versions: Versions
) -> tuple[dict[str, Any], list[str]]:
    """The attributes as values that `weights_only=True` reads, and the names of those that cannot be stored.

    `held` are the objects that are captured elsewhere, such as the model. A large attribute that was not changed
    since it was built (`versions`) is left out: it is built again.
    """
    stored: dict[str, Any] = {}
    missing: list[str] = []
    elsewhere = {id(tensor) for value in held for tensor in tensors_in(value)}
    for name, value in attributes.items():
        tensors = list(tensors_in(value))
        if any(value is one for one in held) or (tensors and all(id(tensor) in elsewhere for tensor in tensors)):
            continue
        large = sum(tensor.numel() * tensor.element_size() for tensor in tensors) > LARGE_BYTES
        if large and versions.get(name) == _versions(tensors):
            continue
        try:
            stored[name] = _stored(value)
        except NotStorable:
            missing.append(name)
    return stored, missing


def restore_attributes(target: Any, stored: Mapping[str, Any], device: torch.device) -> None:
    """Puts captured attributes on `target`; objects that are there already take the values over."""
    own = vars(target)
    for name, value in stored.items():
        setattr(target, name, _restored(own.get(name), value, device))


def note_versions(attributes: Mapping[str, Any]) -> Versions:
    """The versions of the tensors in the attributes: they show later whether a tensor was changed in place."""
    return {name: _versions(list(tensors_in(value))) for name, value in attributes.items()}


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in an attribute: a tensor itself, those of a module, and those in containers."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, nn.Module):
        yield from value.parameters()
        yield from value.buffers()
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, list | tuple | set | frozenset | deque):
        for item in value:
            yield from tensors_in(item)


def unsaved_buffers(module: nn.Module) -> dict[str, Tensor]:
    """The buffers that are not in a module's `state_dict()`."""
    saved = module.state_dict().keys()
    return {name: buffer for name, buffer in module.named_buffers() if name not in saved}


def copy_to_cpu(value: Any) -> Any:
    """A copy of a state: tensors cloned on the CPU, containers of the same kind, `_metadata` kept."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        copied = {key: copy_to_cpu(item) for key, item in value.items()}
        if type(value) is dict:
            return copied
        kept = type(value)(copied) if not hasattr(value, "default_factory") else copied
        if hasattr(value, "_metadata"):
            kept._metadata = value._metadata  # type: ignore[attr-defined]
        return kept
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(copy_to_cpu, value))
    if isinstance(value, list | tuple):
        return type(value)(copy_to_cpu(item) for item in value)
    return value


def _stored(value: Any) -> Any:
    if isinstance(value, PLAIN):
        return value if type(value) in PLAIN else _plain_kind(value)
    if isinstance(value, Tensor):
        return copy_to_cpu(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return {ARRAY: torch.from_numpy(value.copy())}
    if isinstance(value, torch.Generator):
        return {GENERATOR: value.get_state()}
    if isinstance(value, random.Random):
        return {GENERATOR: value.getstate()}
    if isinstance(value, np.random.Generator):
        return {GENERATOR: value.bit_generator.state}
    if callable(getattr(value, "state_dict", None)) and callable(getattr(value, "load_state_dict", None)):
        buffers = copy_to_cpu(unsaved_buffers(value)) if isinstance(value, nn.Module) else {}
        return {STATE: copy_to_cpu(value.state_dict())} | ({BUFFERS: buffers} if buffers else {})
    if isinstance(value, Mapping) and all(isinstance(key, PLAIN) for key in value):
        return {key: _stored(item) for key, item in value.items()}
    if isinstance(value, deque):
        return {QUEUE: [_stored(item) for item in value]}
    if type(value) in (list, tuple, set):
        return type(value)(_stored(item) for item in value)
    raise NotStorable


def _plain_kind(value: Any) -> Any:
    kinds: tuple[type[Any], ...] = (bool, int, float, str, bytes)
    return next(kind(value) for kind in kinds if isinstance(value, kind))


def _restored(live: Any, stored: Any, device: torch.device) -> Any:
    """The stored value; an object that is there already takes it over if it can."""
    if isinstance(stored, Tensor):
        if isinstance(live, Tensor) and live.shape == stored.shape and live.dtype == stored.dtype:
            with torch.no_grad():
                live.copy_(stored)
            return live
        return stored.clone().to(live.device if isinstance(live, Tensor) else device)
    if isinstance(stored, dict) and STATE in stored:
        live.load_state_dict(copy_to_cpu(stored[STATE]))
        with torch.no_grad():
            for name, buffer in unsaved_buffers(live).items() if BUFFERS in stored else ():
                buffer.copy_(stored[BUFFERS][name])
        return live
    if isinstance(stored, dict) and ARRAY in stored:
        return stored[ARRAY].numpy().copy()
    if isinstance(stored, dict) and GENERATOR in stored:
        return _restored_generator(live, stored[GENERATOR])
    if isinstance(stored, dict) and QUEUE in stored:
        items = [_restored(None, item, device) for item in stored[QUEUE]]
        return deque(items, maxlen=live.maxlen if isinstance(live, deque) else None)
    if isinstance(stored, dict):
        found = {key: _restored(live.get(key) if live else None, item, device) for key, item in stored.items()}
        if not isinstance(live, dict):
            return found
        live.clear()
        live.update(found)
        return live
    if isinstance(stored, list):
        known = live if isinstance(live, list) and len(live) == len(stored) else [None] * len(stored)
        items = [_restored(old, item, device) for old, item in zip(known, stored, strict=True)]
        if not isinstance(live, list):
            return items
        live[:] = items
        return live
    if isinstance(stored, tuple):
        before = live if isinstance(live, tuple) and len(live) == len(stored) else (None,) * len(stored)
        return tuple(_restored(old, item, device) for old, item in zip(before, stored, strict=True))
    return stored


def _restored_generator(live: Any, state: Any) -> Any:
    if isinstance(live, torch.Generator):
        live.set_state(state)
    elif isinstance(live, random.Random):
        live.setstate(state)
    else:
        live.bit_generator.state = state
    return live


def _versions(tensors: Sequence[Tensor]) -> tuple[tuple[int, int], ...]:
    return tuple((id(tensor), -1 if tensor.is_inference() else tensor._version) for tensor in tensors)
