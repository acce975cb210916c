"""Chooses the device, the precision and the number of threads, and makes results deterministic."""

import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from harness.errors import HarnessError
from harness.machine import count_cores

NONDETERMINISTIC = "does not have a deterministic implementation"


def choose_device(name: str = "auto") -> torch.device:
    """`auto` is CUDA if there is a GPU, else the CPU. Raises `HarnessError` if the named device does not exist."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = name.partition(":")[0]
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind not in available:
        raise HarnessError(f"--device {name}: choose auto, cuda, cpu or mps.")
    if not available[kind]:
        raise HarnessError(f"--device {name}: torch {torch.__version__} finds no such device; try --device cpu.")
    try:
        return torch.device(name)
    except RuntimeError:
        raise HarnessError(f"--device {name}: there is no such device; write cuda:1 for the second GPU.") from None


def describe_device(device: torch.device) -> str:
    """The hardware on which the bits of a result depend: the GPU's name, or the CPU's instruction set."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        return f"cpu ({torch.backends.cpu.get_cpu_capability()})"
    return device.type


def choose_precision(setting: str, device: torch.device) -> str:
    """`auto` is bfloat16 on GPUs that are fast at it (compute capability 8 and up), float16 on those that are fast at
    that alone (7, such as T4 and V100), else float32.

    `tf32` lets a GPU round the factors of a float32 product to 10 bits of mantissa; on a CPU it is float32.
    On CPUs, `auto` is never bfloat16: with AVX512-BF16 alone it was slower than float32.
    """
    if setting != "auto":
        return setting
    major = torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else 0
    return "bfloat16" if major >= 8 else "float16" if major == 7 else "float32"


def set_products(precision: str) -> None:
    """Sets whether a GPU uses TF32 for float32 products and convolutions: not with the precision `float32`."""
    torch.backends.cuda.matmul.allow_tf32 = precision != "float32"
    torch.backends.cudnn.allow_tf32 = precision != "float32"


def begin_on(device: torch.device) -> None:
    """Makes a GPU the one that torch means where none is named, and measures the most memory taken from now on."""
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]  # before, torch does not know the device
        torch.cuda.set_device(torch.cuda.current_device() if device.index is None else device.index)
        torch.cuda.reset_peak_memory_stats(device)


def free_memory() -> None:
    """Gives memory that torch keeps for later back to the GPU. After an error of the GPU, nothing can be given back."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        with suppress(RuntimeError):
            torch.cuda.empty_cache()


def choose_threads(setting: int | None) -> int:
    """The threads of a run on a CPU: a quarter of the cores, 1 to 4. It does not depend on the number of runs.

    The number of threads changes the order of float additions and so the bits of a result. It is part of the recipe.
    """
    return setting or min(4, max(1, count_cores() // 4))


def make_deterministic(threads: int) -> None:
    """Makes the process deterministic: same inputs, same bits. Call it before anything is computed."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.set_deterministic_debug_mode("warn")  # `use_deterministic_algorithms` also loads and sets the compiler
    # The default fills each new tensor with NaN, to find bugs in torch. That takes a tenth of the time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def mix(*parts: int | str) -> int:
    """A 63-bit seed from numbers and names. Similar inputs give very different seeds."""
    import hashlib

    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def seed_all(*parts: int | str) -> None:
    """Seeds all global random generators: of Python, NumPy and torch."""
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
