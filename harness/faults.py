"""Explains in a sentence what failed outside this package: disks, permissions, quotas, databases, libraries."""

import errno
import os
import re
from collections.abc import Collection, Iterator

from harness.errors import without_login

KEPT = "Everything trained so far is kept; once that is fixed, the same command goes on."
SCARCE = (  # a machine lacks something; libraries also say these in words
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOLCK),
    *(errno.EIO, errno.EROFS, errno.ESTALE),
)
MACHINE = frozenset(
    (
        *SCARCE,
        *(errno.EACCES, errno.EPERM, errno.EBUSY, errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.ENAMETOOLONG),
        *(errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.EREMOTEIO),
    )
)
LIBRARIES = {  # whose exceptions are not bugs of this package, by the package that defines them
    "sqlite3": "the store's database",
    "sqlalchemy": "the store's database",
    "alembic": "the store's database",
    "mlflow": "MLflow",
    "optuna": "Optuna",
    "requests": "the tracking server",
    "urllib3": "the tracking server",
    "google": "the tracking server",  # protobuf: an answer that is not MLflow's
}
MOST_CHARACTERS = 300
OUT_OF_MEMORY = (  # of a GPU, where libraries of CUDA say it in other words, mostly beside other processes
    *("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED"),
    *("CUDNN_STATUS_ALLOC_FAILED", "CUDNN_STATUS_NOT_INITIALIZED", "ALLOCATION_FAILED"),
    *("unable to find an engine", "Unable to find a valid cuDNN algorithm"),
)
OF_A_DEVICE = ("CUDA error", "CUBLAS_STATUS_EXECUTION_FAILED", "CUDNN_STATUS_EXECUTION_FAILED")
IN_WORDS = {  # of errors without a number
    "can't start new thread": "no further thread can be started",
    "out of shared memory": "out of shared memory (/dev/shm)",  # of torch's loader workers
}


def out_of_memory(error: BaseException) -> BaseException | None:
    """The exception, among this one and its causes, that says that memory ran out; None where none does.

    It may be in torch's allocator, or in CUDA, cuBLAS or cuDNN.
    """
    for found in _causes(error):
        if isinstance(found, MemoryError) or "torch.OutOfMemoryError" in _kinds(found):
            return found
        if isinstance(found, RuntimeError) and any(text in str(found) for text in OUT_OF_MEMORY):
            return found
    return None


def device_fault(error: BaseException) -> BaseException | None:
    """The exception, among this one and its causes, that a GPU reported; None where none is.

    Most of these stay: every later call of CUDA in the same process fails with the same error.
    """
    for found in _causes(error):
        is_text = isinstance(found, RuntimeError) and any(text in str(found) for text in OF_A_DEVICE)
        if is_text or "torch.AcceleratorError" in _kinds(found):
            return found
    return None


def machine_fault(error: BaseException, numbers: Collection[int] = MACHINE) -> str | None:
    """What failed in the machine, such as `PATH: No space left on device`; None if an exception has another cause.

    The causes of an exception are searched too: a user's `data()` may have raised it from another one.
    """
    for found in _causes(error, handled=False):
        if isinstance(found, OSError) and found.errno is not None and found.errno in numbers:
            return f"{found.filename or 'this machine'}: {os.strerror(found.errno)}"
        if isinstance(found, RuntimeError | OSError):
            text = str(found)
            for number in SCARCE:
                if os.strerror(number) in text:
                    return f"this machine: {os.strerror(number)}"
            for words, meaning in IN_WORDS.items():
                if words in text:
                    return f"this machine: {meaning}"
    return None


def _causes(error: BaseException, *, handled: bool = True) -> Iterator[BaseException]:
    """An exception and what it was raised from; with `handled`, also what was handled when it was raised."""
    found: BaseException | None = error
    for _ in range(10):
        if found is None:
            return
        yield found
        found = found.__context__ if handled and not found.__suppress_context__ else found.__cause__


def shortage() -> str | None:
    """What this process lacks now, if anything. Libraries hide that, and say that a package is missing instead."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return f"this machine: {os.strerror(error.errno)}" if error.errno in MACHINE else None
    return None


def explain(error: BaseException) -> str | None:
    """A sentence about an error of the machine or of a library; None for a bug of this package."""
    fault = machine_fault(error)
    if fault is not None:
        return f"{fault}. {KEPT}"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or _first_line(error)}."
    if out_of_memory(error) is not None:
        return "out of memory: close other programs, or give this one more (ulimit -v, the container's limit)."
    if (of_device := device_fault(error)) is not None:
        return f"the GPU reported an error: {_first_line(of_device).rstrip('.')}."
    if "(sqlite3." in str(error):  # MLflow quotes it
        return f"the store's database: {_first_line(error).rstrip('.')}. {KEPT}"
    for kind in _kinds(error):
        known = LIBRARIES.get(kind.partition(".")[0])
        if known is not None:
            return f"{known}: {_first_line(error).rstrip('.')}."
    lacking = shortage()
    return None if lacking is None else f"{lacking}. {KEPT}"


def _kinds(error: BaseException) -> list[str]:
    return [f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__]


def _first_line(error: BaseException) -> str:
    """The first line of a message, without the kind of exception that SQLAlchemy puts before it."""
    lines = without_login(str(error)).strip().splitlines()
    return re.sub(r"^\(\S+\)\s*", "", lines[0])[:MOST_CHARACTERS] if lines else type(error).__name__
