"""The device: which one, how precise, how many threads, and the switches that make it repeat its bits."""

import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from harness.errors import HarnessError
from harness.machine import count_cores

OUT_OF_MEMORY = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
NONDETERMINISTIC = "does not have a deterministic implementation"


def choose_device(name: str = "auto") -> torch.device:
    """`auto` is CUDA where there is a GPU and the CPU elsewhere; any other name must be there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = name.partition(":")[0]
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind not in available:
        raise HarnessError(f"--device {name}: choose auto, cuda, cpu or mps.")
    if not available[kind]:
        raise HarnessError(f"--device {name}: torch {torch.__version__} finds no such device; try --device cpu.")
    return torch.device(name)


def describe_device(device: torch.device) -> str:
    """The kind of hardware that fixes the bits: a GPU's name, or the CPU's instruction set."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        return f"cpu ({torch.backends.cpu.get_cpu_capability()})"
    return device.type


def choose_precision(setting: str, device: torch.device) -> str:
    """`auto` is bfloat16 on GPUs that multiply it fast (compute capability 8 and up), and float32 elsewhere.

    `tf32` is float32 whose products a GPU may round to 10 bits of mantissa; elsewhere it is float32.
    On CPUs bfloat16 stays the user's choice: with AVX512-BF16 alone it was slower than float32.
    """
    if setting != "auto":
        return setting
    is_fast = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8
    return "bfloat16" if is_fast else "float32"


def set_products(precision: str) -> None:
    """Whether products of float32 on a GPU are rounded to TF32: with `float32` they are not, also in convolutions."""
    torch.backends.cuda.matmul.allow_tf32 = precision != "float32"
    torch.backends.cudnn.allow_tf32 = precision != "float32"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was short, also outside torch's allocator: of CUDA itself, cuBLAS or cuDNN beside neighbours."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)


def choose_threads(setting: int | None) -> int:
    """Threads a run on a CPU: a quarter of the cores, 1 to 4. Never a matter of how many runs there are.

    The number of threads changes the order of float additions and so the bits of a result: it is part of
    what fixes an epoch.
    """
    return setting or min(4, max(1, count_cores() // 4))


def make_deterministic(threads: int) -> None:
    """Same inputs, same bits: for the whole process, before anything is computed."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.set_deterministic_debug_mode("warn")  # `use_deterministic_algorithms` also loads and sets the compiler
    # Else every new tensor is filled with NaN first, which finds bugs in torch and takes a tenth of the time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def mix(*parts: int | str) -> int:
    """A 63-bit seed from a few numbers and names, far apart for neighbours."""
    import hashlib

    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def seed_all(*parts: int | str) -> None:
    """Seeds every global generator that a model, a transform or a layer may draw from."""
    import numpy

    seed = mix(*parts)
    torch.manual_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed % 2**32)


@contextmanager
def noting_nondeterminism() -> Iterator[set[str]]:
    """Collects the names of operations inside a `with` block that have no deterministic implementation."""
    found: set[str] = set()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield found
    for warning in caught:
        text = str(warning.message)
        if NONDETERMINISTIC in text:
            found.add(text.split(NONDETERMINISTIC)[0].strip())
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
