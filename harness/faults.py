"""What fails in the machine beneath a program: disks, permissions, quotas, handles, processes. No trial is to blame."""

import errno
import os
from collections.abc import Iterator

KEPT = "Everything trained so far is kept; once that is mended, the same command goes on."
SCARCE = (  # what a machine runs out of; libraries tell it in words as well
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
IN_WORDS = {  # of errors without a number
    "can't start new thread": "no further thread can be started",
    "out of shared memory": "out of shared memory (/dev/shm)",  # of torch's loader workers
}


def machine_fault(error: BaseException) -> str | None:
    """What failed in the machine, where an exception comes from that: `PATH: No space left on device`.

    An exception that was raised from another one is looked through: a user's `data()` may have met the fault.
    """
    for found in _causes(error):
        if isinstance(found, OSError) and found.errno in MACHINE:
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


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    for _ in range(10):
        if found is None:
            return
        yield found
        found = found.__cause__
