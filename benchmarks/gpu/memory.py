"""What a trial takes of a GPU's memory: by torch, by NVIDIA's library, and as trials follow each other."""

import itertools
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pynvml
import torch
from common import SPECS, environment, harness
from jobs import starts
from overhead import build_run

from gpu.child import Rows
from gpu.data import images_of
from gpu.running import Given
from harness.training.device import choose_threads
from harness.workers.preflight import CONTEXT_BYTES

MEGABYTE = 2**20
SPEC = SPECS / "images.py"
GROWTH = 1.05  # of the memory from the third trial to the last: more is a leak


def check_peak(given: Given, rows: Rows) -> None:
    """The peak of a run in torch's allocator, with what a process takes, against what the driver says."""
    used = memory_used()
    before = used()
    torch.zeros(1, device=given.device)
    torch.cuda.synchronize()
    context = used() - before - torch.cuda.memory_reserved(given.device)
    rows.add("a process on the GPU, without tensors", context / MEGABYTE, "MiB", right=context <= CONTEXT_BYTES)
    os.environ["BENCH_WIDTH"] = "64"
    images = images_of(given)
    with sampling(used) as samples:
        run = build_run(
            images, Path(tempfile.mkdtemp()), torch.device(given.device), choose_threads(None), batch_size=512
        )
        epochs = run.epochs()
        for _ in range(2):
            next(epochs)
        run.close()
    allocated, reserved = (
        peak(given.device) for peak in (torch.cuda.max_memory_allocated, torch.cuda.max_memory_reserved)
    )
    driver = max(samples) - before
    rows.add("VGG-16, batch 512: tensors at the peak", allocated / MEGABYTE, "MiB")
    rows.add("held by torch at the peak", reserved / MEGABYTE, "MiB")
    rows.add("taken of the GPU at the peak (NVML)", driver / MEGABYTE, "MiB")
    share = driver / (reserved + CONTEXT_BYTES)
    rows.add("of what the preflight would count", share, "times", right=0.5 < share <= 1.02)


def check_growth(given: Given, rows: Rows) -> None:
    """One worker trains many trials: the memory of its process, and of the GPU, does not grow."""
    os.environ["BENCH_WIDTH"] = "4" if given.quick else "64"
    trials = 6 if given.quick else 20
    store = Path(tempfile.mkdtemp())
    command = harness(
        "sweep", SPEC, "--store", store, "--jobs", 1, "--trials", trials, "--epochs", 1 if given.quick else 2,
        "--set", "sampler=random", "--device", given.device, "--no-register",
    )  # fmt: skip
    is_cuda = given.device.startswith("cuda")
    used = memory_used() if is_cuda else (lambda: 0)
    times: list[float] = []
    processes: list[int] = []
    gpu: list[int] = []
    with subprocess.Popen(
        command, env=environment() | {"BENCH_IMAGES": str(images_of(given))}, stdout=subprocess.DEVNULL
    ) as process:
        while process.poll() is None:
            times.append(time.time())
            processes.append(memory_of_workers(process.pid))
            gpu.append(used())
            time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f"the sweep ended with exit code {process.returncode}")
    begun = [*starts(store), times[-1] + 1]
    for name, samples in {"largest worker": processes, **({"GPU (NVML)": gpu} if is_cuda else {})}.items():
        peaks = [
            max((value for at, value in zip(times, samples, strict=True) if first <= at < last), default=0)
            for first, last in itertools.pairwise(begun)
        ]
        early, late = statistics.median(peaks[1:4]), statistics.median(peaks[-3:])
        rows.add(f"{name}, trials 2 to 4", early / MEGABYTE, "MiB")
        rows.add(f"{name}, last 3 of {trials} trials", late / MEGABYTE, "MiB", right=late <= GROWTH * early)


def memory_used() -> Callable[[], int]:
    """A function that says how many bytes of the first GPU are taken, by whatever process."""
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
    return lambda: int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)


def memory_of_workers(pid: int) -> int:
    """Bytes in memory of the largest process that a command has started."""
    largest = 0
    try:
        for child in psutil.Process(pid).children(recursive=True):
            try:
                largest = max(largest, child.memory_info().rss)
            except psutil.Error:  # it has just ended
                pass
    except psutil.Error:
        pass
    return largest


@contextmanager
def sampling(used: Callable[[], int]) -> Iterator[list[int]]:
    """Samples of the GPU's memory, some hundred a second, taken while the block runs."""
    samples = [used()]
    ends = threading.Event()

    def take() -> None:
        while not ends.wait(0.003):
            samples.append(used())

    thread = threading.Thread(target=take)
    thread.start()
    try:
        yield samples
    finally:
        ends.set()
        thread.join()
