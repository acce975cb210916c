"""A thread that writes checkpoints, states and nodes in order, during training."""

import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.files import link_whole, write_whole
from harness.machine import check_memory
from harness.training.checkpoint import pack
from harness.training.tree import Tree

MOST_WAITING = 4  # the most writes that wait; each can hold a whole state in memory


class Writer:
    """Does jobs in order. An error is raised at the next call."""

    def __init__(self) -> None:
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(MOST_WAITING)
        self._error: BaseException | None = None
        check_memory()
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
        self._thread.start()

    def do(self, job: Callable[[], None]) -> None:
        """Adds a job to the queue; waits while the queue is full."""
        self._raise()
        self._jobs.put(job)

    def flush(self) -> None:
        """Waits until all jobs are done."""
        self._jobs.join()
        self._raise()

    def close(self) -> None:
        """Ends the thread after all jobs."""
        self._jobs.put(None)
        self._thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                if self._error is None:
                    job()
            except BaseException as error:
                self._error = error
            finally:
                self._jobs.task_done()
        self._jobs.task_done()


def write_checkpoint(
    checkpoint: Mapping[str, Any], files: list[Path], tree: Tree, name: str, *, rolling: bool, kept: bool
) -> None:
    """Writes one checkpoint to several places: it is packed once, and linked where possible."""
    content, checksum = pack(checkpoint)
    first: Path | None = None
    for file in files:
        if first is None:
            write_whole(file, content)
            first = file
        else:
            link_whole(first, file)
    if kept or rolling:
        tree.add_state(name, content, checksum, kept=kept, source=first)
