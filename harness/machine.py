"""What this machine has: cores, free disk."""

import os
import shutil
from pathlib import Path

GIGABYTE = 10**9
DEFAULT_ADDRESS_BUDGET = 100 * GIGABYTE  # of states, where no disk of this machine sets the limit


def default_path_budget(folder: Path) -> int:
    """Bytes that states may take: 20 GB, or a tenth of the free disk if that is less."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return min(20 * GIGABYTE, shutil.disk_usage(existing).free // 10)


def count_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def find_gpus() -> list[str]:
    """The NVIDIA GPUs of this machine that are of one kind, as `CUDA_VISIBLE_DEVICES` names them; without torch."""
    import pynvml

    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip()]
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        kinds = [str(pynvml.nvmlDeviceGetName(handle)) for handle in handles]
    except pynvml.NVMLError:  # no driver: no GPU
        return []
    return [str(number) for number, kind in enumerate(kinds) if kind == kinds[0]]
