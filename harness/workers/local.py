"""Worker processes on this machine."""

import atexit
import os
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from harness.errors import FAILED, HarnessError
from harness.faults import KEPT, machine_fault
from harness.machine import check_memory, count_cores, find_gpus
from harness.processes import process_context, start_process
from harness.workers.border import Lost
from harness.workers.messages import Failed, PreflightReport

GPU_SHARE = 0.9  # the share of its free memory that trials may use
MOST_A_GPU = 4


@dataclass(frozen=True)
class _Local:
    process: BaseProcess
    connection: Connection
    gpu: str | None


class LocalWorkers:
    """Processes on this machine. The first one imports torch, the others start from it in milliseconds."""

    def __init__(self, device: str = "auto") -> None:
        self._gpus = find_gpus() if device in ("auto", "cuda") else []
        self._context = process_context()
        self._workers: dict[int, _Local] = {}
        self._next = 0
        atexit.register(self.kill_all)  # for a caller that ends while one of its threads searches

    def fit(self, report: PreflightReport) -> int:
        """How many trials run at once: limited by the cores, and on GPUs by the memory too."""
        if report.threads is not None:
            return max(1, count_cores() // report.threads)
        if not report.trial_bytes:
            return 1
        by_memory = int(report.gpu_bytes * GPU_SHARE) // report.trial_bytes
        gpus = max(1, len(self._gpus))
        by_cores = count_cores() // (2 * gpus)  # cores: one launches kernels, one does the rest
        return gpus * max(1, min(by_memory, by_cores, MOST_A_GPU))

    def has_room(self) -> bool:
        """Whether a new worker would start at once."""
        return True

    def start(self) -> int:
        """Starts a worker and returns its number."""
        used = [local.gpu for local in self._workers.values()]
        gpu = min(self._gpus, key=used.count) if len(self._gpus) > 1 else None
        try:
            ours, theirs = self._context.Pipe()
            # Not a daemon: daemons cannot start processes, such as those of a DataLoader.
            process = start_process(self._context, _main, theirs, gpu, daemon=False)
        except (OSError, EOFError) as error:  # EOFError: the process that forks the workers has ended
            fault = machine_fault(error) or "this machine: it starts no more processes"
            raise HarnessError(f"no worker could be started. {fault}. {KEPT}", exit_code=FAILED) from None
        theirs.close()
        number, self._next = self._next, self._next + 1
        self._workers[number] = _Local(process, ours, gpu)
        return number

    def place(self, worker: int) -> None:
        """None: the worker is on this machine."""

    def send(self, worker: int, message: Any) -> None:
        """Sends a message. If the worker has died, the message is dropped, and `receive` returns a `Lost`."""
        try:
            self._workers[worker].connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def receive(self, timeout_seconds: float | None = None) -> list[tuple[int, Any]]:
        """Waits for messages, and returns all that have arrived, in the order of each worker."""
        by_handle = {local.connection: number for number, local in self._workers.items()}
        heard: list[tuple[int, Any]] = []
        for handle in wait(list(by_handle), timeout_seconds):
            number = by_handle[handle]  # type: ignore[index]
            connection = self._workers[number].connection
            try:
                while True:
                    heard.append((number, connection.recv()))
                    if not connection.poll():
                        break
            except (EOFError, ConnectionResetError):
                heard.append((number, Lost(exit_code=self._reap(number))))
        return heard

    def stop(self, worker: int) -> None:
        """Ends an idle worker."""
        self.send(worker, None)
        local = self._workers.pop(worker)
        local.process.join(5)
        if local.process.is_alive():
            local.process.kill()
        local.connection.close()

    def kill_all(self) -> None:
        """Kills every worker at once. Their files are complete or not there."""
        for local in self._workers.values():
            local.process.kill()
        for local in self._workers.values():
            local.process.join(1)
            local.connection.close()
        self._workers.clear()
        atexit.unregister(self.kill_all)

    def close(self) -> None:
        """Ends every worker after its present work."""
        for worker in list(self._workers):
            self.stop(worker)

    def _reap(self, worker: int) -> int | None:
        local = self._workers.pop(worker)
        local.process.join(5)
        local.connection.close()
        return local.process.exitcode


def _main(connection: Connection, gpu: str | None) -> None:
    """Runs in the worker, where torch is loaded. It sees one GPU of several."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    try:
        check_memory()
        from harness.workers.worker import main
    except Exception as error:  # of torch, where memory is limited or its installation is broken
        reason = str(error).strip().partition("\n")[0]
        message = f"a worker could not load torch ({type(error).__name__}: {reason}); is there enough memory?"
        connection.send(Failed(kind="machine", message=message))
        return
    main(connection)
