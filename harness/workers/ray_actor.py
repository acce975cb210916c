"""A worker on a node of a Ray cluster: the same worker as on one machine, behind two methods."""

import os
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError
from harness.files import cache_folder
from harness.objects import Away, open_objects
from harness.workers.messages import Checkpoint, Failed, Train
from harness.workers.shipping import Shipment

if TYPE_CHECKING:
    from harness.workers.worker import Worker


@dataclass(frozen=True, kw_only=True)
class Place:
    """The node of a worker."""

    node: str  # Ray's id of it
    address: str

    def __str__(self) -> str:
        return f"{self.address} ({self.node[:8]})"


class RayActor:
    """A worker on a node. `tell` and `listen` do what `send` and `recv` of a pipe do for a local worker."""

    def __init__(self, shipment: Shipment) -> None:
        import harness.workers.preload  # noqa: F401  reports a missing package before the first trial

        self._told: SimpleQueue[Any] = SimpleQueue()
        self._said: SimpleQueue[Any] = SimpleQueue()
        threading.Thread(target=self._serve, args=(shipment,), daemon=True).start()

    def place(self) -> Place:
        """The node of this worker. An answer means that the worker is ready."""
        import ray

        context = ray.get_runtime_context()
        return Place(node=context.get_node_id(), address=ray.util.get_node_ip_address())

    def tell(self, message: Any) -> None:
        """Takes a request, or a verdict on the present run."""
        self._told.put(message)

    def listen(self) -> list[Any]:
        """Waits for messages, and returns all since the last call, in order, up to a checkpoint."""
        said = [self._said.get()]
        try:
            while not isinstance(said[-1], Checkpoint):  # checkpoints are large: one in each answer
                said.append(self._said.get_nowait())
        except Empty:
            pass
        return said

    def _serve(self, shipment: Shipment) -> None:
        from harness.workers.worker import Worker

        worker = Worker()
        spec: Path | None = None
        try:
            while True:
                request = self._told.get()
                if spec is None:  # loaded late: a worker may wait long for its first trial
                    spec = settle(shipment, worker)
                request = replace(request, spec=spec)
                if isinstance(request, Train):  # a place that this node cannot use is reported
                    request = replace(request, code=None)
                if isinstance(request, Train) and (missing := unreachable(request)):
                    self._said.put(missing)
                else:
                    worker.serve(request, self._said.put, self._told.get)
        except BaseException:  # such as sys.exit() in a spec: a local worker would end as well
            os._exit(1)


def settle(shipment: Shipment, worker: "Worker") -> Path:
    """The path of the loaded spec on this node. If the spec was shipped, data goes to the user's cache folder."""

    def load(path: Path) -> None:
        with suppress(HarnessError):  # the worker reports it with its first request
            worker.load(path)

    if shipment.settle(load):
        return shipment.spec
    os.environ.setdefault("HARNESS_DATA_DIR", str(cache_folder() / "data"))
    return shipment.shipped_spec


def unreachable(request: Train) -> Failed | None:
    """A `Failed` if this node cannot use the driver's place for the epochs."""
    if isinstance(request.paths, str):
        try:
            _check(request.paths)
        except Away:  # unreachable for a while: training goes on without it
            pass
        except HarnessError as error:
            return Failed(kind="place", message=f"it cannot keep epochs there. {error}")
        return None
    if request.reach is None or (request.paths / request.reach).is_file():
        return None
    return Failed(
        kind="place",
        message=f"it does not see the driver's folder {request.paths}. Give --paths a folder that all nodes share, or "
        "an address such as s3://BUCKET/NAME, or put --store into a shared folder.",
    )


@cache  # once a process, unless it fails
def _check(address: str) -> None:
    open_objects(address).check()
