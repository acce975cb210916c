"""Demo mode: while it is on, downloads become generated data and the harness's own networks are narrow."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_demo: ContextVar[bool] = ContextVar("demo", default=False)


def is_demo() -> bool:
    """Whether the code that asks is running under `--demo`."""
    return _demo.get()


@contextmanager
def demo(on: bool = True) -> Iterator[None]:
    """Turns demo mode on (or off) inside a `with` block."""
    token = _demo.set(on)
    try:
        yield
    finally:
        _demo.reset(token)
