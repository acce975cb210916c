"""A CUDA graph's stand-in on a CPU: it records the operations of a step, and replays those, not the Python around."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.training import capturing, graph

READS = torch.ops.aten._local_scalar_dense.default  # `item()`, and whatever decides by a tensor's value


class Recording(TorchDispatchMode):
    """Operations with the tensors that went in and came out. As on a GPU, none of them may read a value."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operation is READS:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")
        result = operation(*args, **(kwargs or {}))
        self.operations.append((operation, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        """The same operations on the same memory, with the numbers that the host gave then."""
        with torch._C._AutoDispatchBelowAutograd():
            for operation, args, kwargs, result in self.operations:
                again = operation(*args, **kwargs)
                is_alias = any(returned.alias_info is not None for returned in operation._schema.returns)
                for old, new in () if is_alias else zip(tree_leaves(result), tree_leaves(again), strict=True):
                    if isinstance(old, torch.Tensor):
                        old.copy_(new)


class Refusing(TorchDispatchMode):
    """As torch's debug mode on a GPU: an error where a value is read."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operation is READS:
            raise RuntimeError("called a synchronizing CUDA operation")
        return operation(*args, **(kwargs or {}))


def pretend_graphs(
    monkeypatch: pytest.MonkeyPatch, replaces: Callable[[Recording], Callable[[], None]] = lambda made: made.replay
) -> list[Recording]:
    """Lets a CPU capture. `replaces` makes of a recording what is replayed. The list gets each capture."""
    captures: list[Recording] = []

    def graph_of(step: Callable[[], None], device: torch.device, before: Any) -> Callable[[], None]:
        for _ in range(capturing.WARM_UPS):
            step()
        before.restore()
        made = Recording()
        captures.append(made)
        with made:
            step()
        return replaces(made)

    @contextmanager
    def no_waiting(device: torch.device) -> Iterator[None]:
        with Refusing():
            yield

    monkeypatch.setattr(graph, "why_not", lambda *_, **__: None)
    monkeypatch.setattr(capturing, "graph_of", graph_of)
    monkeypatch.setattr(capturing, "no_waiting", no_waiting)
    return captures
