"""What this machine has: cores, free disk."""

import ctypes
import gc
import os
import resource
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from multiprocessing.connection import wait
from pathlib import Path

GIGABYTE = 10**9
MEMORY_OF_A_THREAD = 64 * 2**20  # bytes of address space, for its stack and what it does first
DEFAULT_ADDRESS_BUDGET = 100 * GIGABYTE  # the limit for states at an address, whose free space is not known
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # names of glibc's mallopt(3)


def default_path_budget(folder: Path) -> int:
    """Bytes that states may take: 20 GB, or a tenth of the free disk if that is less."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return min(20 * GIGABYTE, shutil.disk_usage(existing).free // 10)


def count_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def find_gpus() -> list[str]:
    """The NVIDIA GPUs of this machine, of one kind, as `CUDA_VISIBLE_DEVICES` names them; without torch."""
    import pynvml

    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip()]
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        kinds = [str(pynvml.nvmlDeviceGetName(handle)) for handle in handles]
        names = [
            str(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles
        ]  # NVML and CUDA number the GPUs differently
    except pynvml.NVMLError:  # no driver: no GPU
        return []
    return [name for name, kind in zip(names, kinds, strict=True) if kind == kinds[0]]


def check_memory() -> None:
    """Raises `MemoryError` where a limit (`ulimit -v`) leaves no room for a thread.

    To be called before one is started: Python waits without end for a thread that dies of it.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    statm = Path("/proc/self/statm")
    if limit != resource.RLIM_INFINITY and statm.exists():
        used = int(statm.read_text().split()[0]) * resource.getpagesize()
        if limit - used < MEMORY_OF_A_THREAD:
            raise MemoryError(f"{max(0, limit - used)} bytes are left of the limit of {limit}")


_owned = False


def own_process() -> None:
    """Marks this process as one of a command or a worker, not one of a script or a notebook."""
    global _owned
    _owned = True


def is_own_process() -> bool:
    """Whether this process runs only this package: then nothing else is harmed by how it ends."""
    return _owned


@contextmanager
def loading() -> Iterator[None]:
    """For imports of large packages: the garbage collector does not search their objects, now or later."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        keep_loaded()
        if was_enabled:
            gc.enable()


def keep_loaded() -> None:
    """Excludes all present objects from garbage collection, also at the end of the process, if the process is ours."""
    if _owned and "triton" not in sys.modules:  # which would report the kept objects as leaks
        gc.freeze()


def end_with_parent() -> None:
    """Ends this process as soon as the one that started it has ended. No incomplete file is left."""
    parent = parent_process()
    if parent is not None:
        sentinel = parent.sentinel
        threading.Thread(target=lambda: (wait([sentinel]), os._exit(1)), daemon=True).start()


def keep_memory() -> None:
    """Makes glibc keep the memory of deleted tensors: each training step needs the same memory again.

    Fresh pages for it took 3 to 6 percent of the step of a small network.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(MMAP_THRESHOLD, 32 * 2**20)  # the largest value that glibc takes
    mallopt(TRIM_THRESHOLD, 512 * 2**20)
