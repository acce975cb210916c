"""How many trials fit on a machine, and what becomes of one that runs out of memory because of its neighbours."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from running import Finished, environment
from small import edit

from harness.faults import out_of_memory
from harness.training.results import Proof
from harness.workers import local
from harness.workers.local import LocalWorkers
from harness.workers.messages import PreflightReport

GB = 2**30
ANYTHING: dict[str, Any] = {
    "epoch_seconds": 1.0, "state_bytes": 1, "device": "", "precision": "", "recipe": {}, "recipe_digest": "",
    "code": {}, "model": "", "parameters": 1, "data": "", "train_images": 1, "corner": {}, "proof": Proof(),
}  # fmt: skip

CROWDED = """
    def loss(self):
        compute = nn.CrossEntropyLoss()
        handle = os.open("memory", os.O_RDWR | os.O_CREAT)

        def loss(outputs, targets):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # there is room for one
            except BlockingIOError:
                raise torch.OutOfMemoryError("no room beside the other one") from None
            time.sleep(0.02)
            fcntl.flock(handle, fcntl.LOCK_UN)
            return compute(outputs, targets)

        return loss
"""


def test_a_trial_that_runs_out_of_memory_beside_others_is_tried_again_alone(
    spec: Path, harness: Callable[..., Finished]
) -> None:
    edit(spec, "import torch\n", "import fcntl\nimport os\nimport time\n\nimport torch\n")
    spec.write_text(spec.read_text() + CROWDED)
    done = harness("sweep", spec, "--trials", "4", "--jobs", "2", "--set", "momentum=0.9")
    assert "out of memory beside other trials; tried again, alone" in done.out
    listed = harness("runs", spec).out
    assert listed.count("finished") == 4 and "failed" not in listed


def test_a_trial_that_runs_out_of_memory_alone_has_failed(spec: Path, harness: Callable[..., Finished]) -> None:
    edit(spec, "        return nn.Sequential", "        self.check()\n        return nn.Sequential")
    spec.write_text(
        spec.read_text()
        + """
    def check(self):
        import os, multiprocessing
        if os.path.exists("mlruns/mlflow.db"):  # not in the preflight
            raise torch.OutOfMemoryError("too large")
"""
    )
    done = harness("sweep", spec, "--trials", "3", "--jobs", "1", code=1)
    assert "out of memory with batch_size 32: too large" in done.out + done.err


@pytest.mark.parametrize(
    ("error", "is_so"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True),
        (torch.AcceleratorError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_memory_can_be_short_outside_torchs_allocator(error: Exception, is_so: bool) -> None:
    """What CUDA raises where other processes hold a GPU's memory is no `OutOfMemoryError`."""
    assert (out_of_memory(error) is not None) == is_so


@pytest.mark.parametrize(
    ("cores", "gpus", "free", "trial", "expected"),
    [
        (16, 1, 140, 5, 4),  # no more than four on a GPU
        (16, 1, 16, 5, 2),  # by memory
        (4, 1, 140, 5, 2),  # by cores
        (1, 1, 140, 5, 1),  # one always
        (32, 4, 16, 5, 8),  # on each GPU
        (16, 1, 4, 5, 1),  # the preflight has shown that one fits
    ],
)
def test_a_gpu_is_filled_as_far_as_memory_and_cores_go(
    monkeypatch: pytest.MonkeyPatch, cores: int, gpus: int, free: int, trial: int, expected: int
) -> None:
    monkeypatch.setattr(local, "count_cores", lambda: cores)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus))))
    report = PreflightReport(threads=None, gpu_bytes=free * GB, trial_bytes=trial * GB, **ANYTHING)
    assert LocalWorkers().fit(report) == expected


def test_a_cpu_is_filled_by_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "count_cores", lambda: 16)
    assert LocalWorkers().fit(PreflightReport(threads=3, **ANYTHING)) == 5


def test_of_several_gpus_each_worker_sees_one_the_least_used(tmp_path: Path) -> None:
    code = """
import os
from harness.workers import worker
from harness.workers.local import LocalWorkers

def main(connection):
    connection.send(os.environ.get("CUDA_VISIBLE_DEVICES"))
    connection.recv()

worker.main = main
local = LocalWorkers()
seen = {}
for _ in range(5):
    seen[local.start()] = None
for _ in range(100):
    if None in seen.values():
        seen.update(local.receive(30))
local.stop(1)
replaced = local.start()
print(*seen.values(), *(heard for number, heard in local.receive(30) if number == replaced))
local.kill_all()
"""
    more = {"CUDA_VISIBLE_DEVICES": "2,5,7", "HARNESS_START_METHOD": "fork"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment() | more,
        check=True,
        timeout=120,
    )
    assert done.stdout.split() == ["2", "5", "7", "2", "5", "5"]
