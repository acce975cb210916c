"""What a worker answers where the GPU fails, or runs out of memory, at each place; and what becomes of the trial."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from running import Finished
from small import SPEC, edit

from harness.faults import device_fault, out_of_memory
from harness.training import saving
from harness.training.results import Proof
from harness.workers.messages import Done, Failed, Preflight, Train
from harness.workers.worker import Worker

STICKY = "torch.AcceleratorError('CUDA error: device-side assert triggered\\n(more)')"
SHORT = {
    "torch's allocator": "torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB')",
    "cuBLAS has no handle": "RuntimeError('CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate`')",
    "cuBLAS has no workspace": "RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`')",
    "cuDNN has no workspace": "RuntimeError('GET was unable to find an engine to execute this computation')",
}
PLACES = {
    "build": "    def loss(self):\n        raise {}\n",
    "step": "    def step(self, model, loss, optimizer, inputs, targets):\n        raise {}\n",
    "evaluation": "    def predict(self, model, inputs):\n        raise {}\n",
}


@pytest.fixture
def broken_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA says the same error again at every later call, as it does in a process whose GPU has failed."""

    def fail() -> None:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", fail)


def train(spec: Path, **more: Any) -> Train:
    values: dict[str, Any] = {"epochs": 1}
    given: dict[str, Any] = {"proof": Proof()} | more
    return Train(
        spec=spec, values=values, run_id="run", device="cpu", is_demo=False, paths=spec.parent / "paths",
        budget_bytes=10**9, checkpoints=spec.parent / "checkpoints", **given,
    )  # fmt: skip


def answers(request: Any) -> list[Any]:
    said: list[Any] = []
    Worker().serve(request, said.append, lambda: None)
    return said


def written(tmp_path: Path, place: str, error: str) -> Path:
    spec = tmp_path / "small.py"
    spec.write_text(SPEC + "\n" + PLACES.get(place, "").format(error))
    return spec


@pytest.mark.parametrize("place", [*PLACES, "state"])
def test_an_error_of_the_gpu_is_told_as_one_wherever_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken_gpu: None, place: str
) -> None:
    spec = written(tmp_path, place, STICKY)
    if place == "state":
        monkeypatch.setattr(saving, "capture", lambda _: exec(f"import torch; raise {STICKY!s}"))
    told = answers(train(spec))[-1]
    assert isinstance(told, Failed) and told.kind == "device"
    assert told.message == "the GPU reported an error: CUDA error: device-side assert triggered"
    assert told.trace is not None and "AcceleratorError" in told.trace


@pytest.mark.parametrize("place", [*PLACES, "state"])
def test_memory_that_ran_out_is_told_as_such_wherever_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    for error in SHORT.values():
        spec = written(tmp_path, place, error)
        if place == "state":
            monkeypatch.setattr(saving, "capture", lambda _, error=error: exec(f"import torch; raise {error}"))
        told = answers(train(spec))[-1]
        assert isinstance(told, Failed) and told.kind == "memory", told


@pytest.mark.parametrize("error", SHORT.values(), ids=SHORT)
def test_the_preflight_knows_every_way_of_running_out_of_memory(tmp_path: Path, error: str) -> None:
    spec = written(tmp_path, "step", error)
    request = Preflight(spec=spec, values={}, searched=(), device="cpu", is_demo=False)
    told = answers(request)[-1]
    assert isinstance(told, Failed) and told.kind == "spec"
    assert "a batch of 32 does not fit into the memory of cpu" in told.message


def test_the_cause_of_an_error_is_found_behind_others() -> None:
    def caught(first: Exception, *, says: bool) -> Exception:
        try:
            try:
                raise first
            except Exception as error:
                if says:
                    raise ValueError("in the user's words") from error
                raise ValueError("while that was handled")  # noqa: B904
        except ValueError as error:
            return error

    for says in (True, False):
        assert device_fault(caught(torch.AcceleratorError("CUDA error: x"), says=says)) is not None
        assert out_of_memory(caught(torch.OutOfMemoryError("no room"), says=says)) is not None
    assert device_fault(caught(RuntimeError("an ordinary one"), says=True)) is None


def test_a_trial_whose_gpu_fails_is_tried_once_more_and_the_next_one_is_not_charged(
    spec: Path, harness: Callable[..., Finished], tmp_path: Path
) -> None:
    sticky = f"""
    def loss(self):
        compute, marks = nn.CrossEntropyLoss(), pathlib.Path("marks")

        def loss(outputs, targets):
            if os.path.exists("mlruns/mlflow.db") and not marks.exists():
                marks.touch()
                broken.append(1)
            if broken:  # from here on everything fails in this process
                torch.cuda.is_initialized, torch.cuda.empty_cache = (lambda: True), fail
                fail()
            return compute(outputs, targets)

        return loss


broken = []


def fail():
    raise {STICKY}
"""
    edit(spec, "import torch\n", "import os\nimport pathlib\n\nimport torch\n")
    spec.write_text(spec.read_text() + sticky)
    done = harness("sweep", spec, "--trials", "3", "--jobs", "1", "--set", "epochs=2")
    assert done.out.count("tried again in a new process") == 1 and "device-side assert triggered" in done.out
    listed = harness("runs", spec).out
    assert listed.count("finished") == 3 and "failed" not in listed


def test_a_run_ends_where_its_second_try_fails_as_well(
    spec: Path, harness: Callable[..., Finished], tmp_path: Path
) -> None:
    edit(spec, "        return nn.Sequential", "        self.check()\n        return nn.Sequential")
    edit(spec, "import torch\n", "import os\n\nimport torch\n")
    check = f"""
    def check(self):
        if os.path.exists("mlruns/mlflow.db"):  # not in the preflight
            raise {STICKY}
"""
    spec.write_text(spec.read_text() + check)
    done = harness("train", spec, "--set", "epochs=2", code=1)
    assert done.out.count("tried again in a new process") == 1
    assert "the GPU reported an error: CUDA error: device-side assert triggered" in done.err
    assert "Traceback (from your code down)" in done.err


def test_a_whole_run_still_ends_well(tmp_path: Path) -> None:
    assert isinstance(answers(train(written(tmp_path, "", "")))[-1], Done)


def test_after_a_capture_that_failed_the_trial_goes_on_in_another_process(
    spec: Path, harness: Callable[..., Finished], tmp_path: Path
) -> None:
    refuse = """
    def step(self, model, loss, optimizer, inputs, targets):
        if self.momentum == 0.9 and tried:
            pathlib.Path("broken").touch()  # a process that had a failed capture trained on
        where = pathlib.Path("sweep" if os.path.exists("mlruns/mlflow.db") else "preflight")
        if self.momentum == 0.9 and not where.exists():
            where.touch()
            tried.append(1)
            raise NotCaptured("it cannot be captured: CUDA error: operation not permitted")
        return super().step(model, loss, optimizer, inputs, targets)


tried = []
"""
    edit(spec, "import torch\n", "import os\nimport pathlib\n\nimport torch\n")
    edit(spec, "from harness.data import", "from harness.errors import NotCaptured\nfrom harness.data import")
    spec.write_text(spec.read_text() + refuse)
    done = harness("sweep", spec, "--trials", "3", "--jobs", "1", "--set", "epochs=2", "--set", "momentum=0.9")
    assert (tmp_path / "preflight").exists() and not (tmp_path / "broken").exists()
    told = "no CUDA graph (it cannot be captured: CUDA error: operation not permitted); tried again kernel by kernel"
    assert done.out.count(told) == 1
    listed = harness("runs", spec).out
    assert listed.count("finished") == 3 and "failed" not in listed
