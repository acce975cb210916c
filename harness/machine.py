"""What this machine has: cores, free disk."""

import os
import shutil
from pathlib import Path

GIGABYTE = 10**9


def default_path_budget(folder: Path) -> int:
    """Bytes that states may take: 20 GB, or a tenth of the free disk if that is less."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return min(20 * GIGABYTE, shutil.disk_usage(existing).free // 10)


def count_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
