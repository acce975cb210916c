"""What a run does to a GPU before it begins, told by the calls of torch: no GPU is needed."""

from collections.abc import Callable

import pytest
import torch

from harness.data.sampling import order_of
from harness.training.device import begin_on, free_memory


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """The calls of torch's functions for GPUs, in their order."""
    made: list[tuple[object, ...]] = []

    def note(name: str, result: object = None) -> Callable[..., object]:
        return lambda *given: (made.append((name, *given)), result)[1]

    for name in ("init", "set_device", "reset_peak_memory_stats", "get_rng_state", "set_rng_state"):
        monkeypatch.setattr(torch.cuda, name, note(name))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    return made


@pytest.mark.parametrize(("name", "number"), [("cuda:3", 3), ("cuda", 0)])
def test_a_run_uses_the_gpu_that_was_named_and_measures_its_own_memory(
    name: str, number: int, calls: list[tuple[object, ...]]
) -> None:
    device = torch.device(name)
    for _ in range(2):  # each run of a worker
        begin_on(device)
    assert calls == 2 * [("init",), ("set_device", number), ("reset_peak_memory_stats", device)]


def test_a_run_on_a_cpu_touches_no_gpu(calls: list[tuple[object, ...]]) -> None:
    begin_on(torch.device("cpu"))
    order_of(torch.utils.data.RandomSampler(range(5)), seed=0, number=0)  # draws, and puts generators back
    assert not calls


def test_after_an_error_of_the_gpu_giving_memory_back_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def fail() -> None:
        tried.append(1)
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", fail)
    free_memory()
    assert tried
