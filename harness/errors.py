"""The exception for mistakes that a user can fix, and the suggestion in its message."""

import difflib
import os
import re
import traceback
from collections.abc import Iterable
from pathlib import Path

FAILED = 1
USAGE = 2
INTERRUPTED = 130


class HarnessError(Exception):
    """An error of the user. Its message says in one or two sentences what is wrong, where, and what to do.

    `exit_code` is the exit code of the command: 2 if the command or the spec is wrong, 1 if the work failed.
    """

    def __init__(self, message: str, *, exit_code: int = USAGE) -> None:
        super().__init__(message)
        self.exit_code = exit_code

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (str(self), self.exit_code)


def _restore(message: str, exit_code: int) -> HarnessError:
    return HarnessError(message, exit_code=exit_code)


class NotCaptured(HarnessError):
    """A training step was tried as a CUDA graph, and is none; the message says why.

    Where the capture had begun, CUDA may not be used again in this process.
    """

    def __init__(self, message: str, *, has_begun: bool = True) -> None:
        super().__init__(message, exit_code=FAILED)
        self.has_begun = has_begun


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """A suggestion to append to an error; empty if no option is similar.

    >>> did_you_mean("batchsize", ["batch_size", "epochs"])
    " Did you mean 'batch_size'?"
    """
    close = difflib.get_close_matches(name, list(options), n=1, cutoff=0.7)
    return f" Did you mean '{close[0]}'?" if close else ""


class UserCodeError(HarnessError):
    """An exception inside the user's own code, with the traceback from the user's frame down."""

    def __init__(self, message: str, *, trace: str, exit_code: int = FAILED) -> None:
        super().__init__(message, exit_code=exit_code)
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return _restore_user, (str(self), self.trace, self.exit_code)


def _restore_user(message: str, trace: str, exit_code: int) -> UserCodeError:
    return UserCodeError(message, trace=trace, exit_code=exit_code)


def user_trace(error: BaseException) -> str:
    """The traceback of `error`, from the first frame in the user's code on."""
    frames = traceback.extract_tb(error.__traceback__)
    own = str(Path(__file__).parent) + os.sep
    theirs = [i for i, frame in enumerate(frames) if not frame.filename.startswith(own)]
    users = [i for i in theirs if "site-packages" not in frames[i].filename]  # a library's decorator may come first
    first = (users or theirs or [0])[0]
    shown = traceback.format_list(frames[first:]) + traceback.format_exception_only(error)
    return "Traceback (from your code down):\n" + "".join(shown)


def without_login(text: str) -> str:
    """A text without the names, passwords and options of the addresses in it.

    >>> without_login("postgresql+psycopg://me:a/b@c@host/studies?password=x is away")
    'postgresql+psycopg://...@host/studies is away'
    """
    return re.sub(r"(?<=://)(\S*@)?([^\s?]*)(\?\S*)?", lambda found: ("...@" if found[1] else "") + found[2], text)


def without_password(address: str) -> str:
    """An address that can be shown and opened: without the name and password that it may begin with.

    >>> without_password("https://me:p@ss/w@host:5000/a?b#c")
    'https://host:5000/a?b#c'
    """
    return re.sub(r"(?<=://)[^\s?#]*@", "", address)


def visible(text: str) -> str:
    r"""A text that can be shown: no character commands a terminal, and no word goes on without end.

    >>> visible("a\033[2Jb")
    'a\\x1b[2Jb'
    """
    text = re.sub(r"\S{400,}", lambda found: f"{found[0][:100]}...", text)
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", lambda found: ascii(found[0])[1:-1], text)
