"""Tries a training step as a CUDA graph: is it one, and does its replay give the bits of the step?

A graph repeats what the step did on the device, not what it decided on the host. So a step that draws from a generator
of the host, reads a value of the device, or changes a value on the host is not captured. Where it is captured, replays
are compared with the step over several steps.
"""

import random
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from harness.errors import NotCaptured
from harness.faults import out_of_memory
from harness.training.attributes import copy_to_cpu
from harness.training.fused import write_rates
from harness.training.parts import Parts
from harness.training.reach import Reach
from harness.training.state import same_bits

SEGMENTS = (5, 2)  # steps: they find what counts to 2, 3 or 4
WARM_UPS = 3
SLOWER = 0.5  # times the learning rate in the second segment: a rate that is built in shows
MOST_NAMED = 3


class Steps(Protocol):
    """Training steps that can be played again."""

    def play(self) -> None:
        """A step on the present batch."""

    def turn_to(self, number: int) -> None:
        """Makes batch `number` the present one; 0 is the one whose turn it is."""

    def totals(self) -> list[Tensor]:
        """The tensors in which metrics are summed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Captured:
    """A graph of a step."""

    replay: Callable[[], None]
    gradients: list[tuple[nn.Parameter, Tensor | None]]  # into which a replay writes

    def show_gradients(self) -> None:
        """Gives the parameters the gradients of the last replay."""
        for parameter, gradient in self.gradients:
            parameter.grad = gradient


def capture(steps: Steps, parts: Parts, device: torch.device) -> Captured | None:
    """A graph of the step on the present batch. None where an optimizer has yet to make some of its state.

    All is left as it was. Raises `NotCaptured` where the step is no graph.
    """
    reach = Reach(parts, device)
    before = Snapshot(parts, [*reach.tensors, *reach.states, *steps.totals()], device)
    eager = _play(steps, parts, before, lambda: _on_the_device_alone(steps.play, device))
    found = Reach(parts, device)
    has_new_state = before.has_new_state()
    moved = before.moved_generators()
    before.restore()
    if moved or (names := found.changed_since(reach)):
        what = f"draws from the generator of {moved[0]}" if moved else f"changes {', '.join(names[:MOST_NAMED])}"
        raise NotCaptured(f"the step {what}, on the host", has_begun=False)
    if has_new_state:
        return None
    try:
        replay = graph_of(steps.play, device, before)
        captured = Captured(replay=replay, gradients=[(p, p.grad) for p in _parameters(parts)])
        before.restore()
        replayed = _play(steps, parts, before, replay)
    except Exception as error:
        if out_of_memory(error) is not None:
            raise
        cause = error.__context__ or error  # what was forbidden; the end of a failed capture raises as well
        raise NotCaptured(f"it cannot be captured: {str(cause).splitlines()[0]}{_line_of(cause)}") from error
    if not same_bits(eager, replayed):
        raise NotCaptured("a replayed step gives other bits than the step itself")
    before.restore()
    return captured


def graph_of(step: Callable[[], None], device: torch.device, before: "Snapshot") -> Callable[[], None]:
    """Captures a step, after some on a stream of its own have made what is made only once."""
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            step()
        before.restore()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph, stream=side):
        step()
    return graph.replay


class Snapshot:
    """All that training steps change, to compare it and to go back to it."""

    def __init__(self, parts: Parts, tensors: list[Tensor], device: torch.device) -> None:
        self._parts, self._tensors, self._device = parts, tensors, device
        self._values = [tensor.detach().clone() for tensor in tensors]
        self._states = {
            name: {key: dict(held) for key, held in optimizer.state.items()}
            for name, optimizer in parts.optimizers.items()
        }
        self._gradients: list[tuple[nn.Parameter, Any, Any]] = [
            (p, p.grad, None if p.grad is None else p.grad.clone()) for p in _parameters(parts)
        ]
        self._generators = _generators(device)

    @torch.no_grad()
    def restore(self) -> None:
        """Puts everything back: values, the optimizers' states, gradients, and all generators."""
        for tensor, value in zip(self._tensors, self._values, strict=True):
            tensor.copy_(value)
        for name, optimizer in self._parts.optimizers.items():
            optimizer.state.clear()
            optimizer.state.update({key: dict(held) for key, held in self._states[name].items()})
        for parameter, gradient, value in self._gradients:
            parameter.grad = gradient
            if gradient is not None:
                gradient.copy_(value)
        _set_generators(self._generators, self._device)

    def read(self) -> list[Tensor]:
        """The values as they are now, with the place of the device's generator, on the CPU."""
        return [_generators(self._device)["the device"], *map(copy_to_cpu, self._tensors)]

    def has_new_state(self) -> bool:
        """Whether an optimizer has made a state since."""
        optimizers = self._parts.optimizers.items()
        return any(_made(optimizer.state) != _made(self._states[name]) for name, optimizer in optimizers)

    def moved_generators(self) -> list[str]:
        """The generators of the host that have been drawn from since."""
        now = _generators(self._device)
        return [
            name for name, state in self._generators.items() if name != "the device" and not _same(state, now[name])
        ]


def _play(steps: Steps, parts: Parts, before: Snapshot, play: Callable[[], None]) -> list[list[Tensor]]:
    """Plays all segments from the present state; the values after each of them."""
    groups = parts.groups
    chosen = [group["lr"] for group in groups]
    number, left = 0, list[list[Tensor]]()
    try:
        for count in SEGMENTS:
            for _ in range(count):
                steps.turn_to(number)
                for optimizer in parts.optimizers.values():
                    write_rates(optimizer)
                rates = [group["lr"] for group in groups]
                play()
                if any(group["lr"] is not rate for group, rate in zip(groups, rates, strict=True)):
                    raise NotCaptured("the step changes the learning rate, on the host", has_begun=False)
                number += 1
            left.append(before.read())
            for group in groups:
                if not isinstance(group["lr"], Tensor):
                    group["lr"] *= SLOWER
    finally:
        for group, rate in zip(groups, chosen, strict=True):
            group["lr"] = rate
        for optimizer in parts.optimizers.values():
            write_rates(optimizer)
        steps.turn_to(0)
    return left


def _on_the_device_alone(play: Callable[[], None], device: torch.device) -> None:
    """Plays a step; raises `NotCaptured` where it waits for a value of the device."""
    try:
        with no_waiting(device):
            play()
    except RuntimeError as error:
        if "synchronizing CUDA operation" not in str(error):
            raise
        raise NotCaptured(f"the step waits for a value of the device{_line_of(error)}", has_begun=False) from error


@contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """Inside the block, torch raises an error where the host would wait for the device."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _line_of(error: BaseException) -> str:
    """Where in the user's code an exception came from, in brackets; empty where that is not known."""
    package = str(Path(__file__).parent.parent)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(package)]
    own = [frame for frame in frames if "site-packages" not in frame.filename]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""


def _made(states: Mapping[Any, Mapping[str, Any]]) -> dict[Any, set[str]]:
    return {key: {name for name, value in held.items() if value is not None} for key, held in states.items()}


def _parameters(parts: Parts) -> list[nn.Parameter]:
    of_modules = (parameter for _, module in parts.modules() for parameter in module.parameters())
    of_groups = (parameter for group in parts.groups for parameter in group["params"])
    return list({id(parameter): parameter for parameter in (*of_modules, *of_groups)}.values())


def _generators(device: torch.device) -> dict[str, Any]:
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
    host = {"Python": random.getstate(), "NumPy": np.random.get_state()}
    return {"the device": on_device} | host | ({"torch": torch.get_rng_state()} if device.type == "cuda" else {})


def _set_generators(states: dict[str, Any], device: torch.device) -> None:
    random.setstate(states["Python"])
    np.random.set_state(states["NumPy"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["the device"], device)
    torch.set_rng_state(states["torch" if device.type == "cuda" else "the device"])


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return (
        bool(np.array_equal(one, other))
        if isinstance(one, np.ndarray)
        else bool(torch.equal(one, other))
        if isinstance(one, Tensor)
        else bool(one == other)
    )
