"""Running the user's code: its errors carry a traceback from the user's frame down."""

from collections.abc import Iterator
from contextlib import contextmanager

from harness.errors import USAGE, HarnessError, UserCodeError, user_trace
from harness.faults import out_of_memory
from harness.spec import Spec


@contextmanager
def calling(spec: Spec, what: str, exit_code: int = USAGE) -> Iterator[None]:
    """Turns an exception inside the block into a `UserCodeError` that says which method raised it."""
    try:
        yield
    except HarnessError:
        raise
    except (Exception, SystemExit) as error:  # sys.exit() in a spec ends neither a worker nor a sweep
        if out_of_memory(error) is not None:
            raise
        message = f"{spec.path}: {what} raised {type(error).__name__}: {error}"
        raise UserCodeError(message, trace=user_trace(error), exit_code=exit_code) from error
