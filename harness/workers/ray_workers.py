"""Workers on a Ray cluster: as many as fit, more when nodes are added, fewer when nodes are lost."""

import os
import shutil
import socket
import sys
import tempfile
import time
import uuid
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError, RuntimeEnvSetupError

import harness
from harness.errors import FAILED, HarnessError
from harness.machine import count_cores
from harness.workers.border import Lost
from harness.workers.messages import Failed, PreflightReport, Train
from harness.workers.ray_actor import Place, RayActor
from harness.workers.shipping import pack_spec

LOOK_SECONDS = 1.0  # between two checks of the cluster's head
HEAD_TRIES = 5  # failed checks in a row: the head is lost
START_TRIES = 3  # workers in a row that could not start: an error
CANNOT_START = "creation task"  # in Ray's message about that
SPARES = 2  # at least so many workers are requested in addition to the used ones
SPARE_SECONDS = 30  # so long an unused worker is kept
WAIT_SECONDS = 30  # for a worker, before the screen says that there may be no room


@dataclass(frozen=True, kw_only=True)
class _Started:
    actor: Any
    place: Place


class RayWorkers:
    """Workers that are Ray actors. More are requested than are used: those that start have found room."""

    def __init__(
        self, address: str, spec: Path, *, cpus: float | None = None, gpus: float | None = None,
    ) -> None:  # fmt: skip
        self._folder = Path(tempfile.mkdtemp(prefix="harness-"))
        self._workers: dict[int, _Started] = {}
        self._listening: dict[Any, int] = {}
        self._spares: dict[Any, Any] = {}  # requested and not yet used: by the pending answer that says it is ready
        self._ready: set[Any] = set()  # the spares that have started
        self._wanted = time.monotonic()  # when room was last needed
        self._failures = self._next = self._head_misses = 0
        self._looked = 0.0
        self._reach = f"reach-{uuid.uuid4().hex}"
        self._marked: Path | None = None
        try:
            self._shipment = pack_spec(spec, self._folder)
            _connect(address, self._folder)
            if address == "local":
                _check_fit("--cpus-per-trial", cpus, "CPU")
                _check_fit("--gpus-per-trial", gpus, "GPU")
        except BaseException:
            shutil.rmtree(self._folder)
            raise
        self._head = None if address.startswith("ray://") else ray.get_runtime_context().gcs_address
        have = ray.cluster_resources()
        self._cpus = cpus
        self._gpus = gpus if gpus is not None else float(have.get("GPU", 0) > 0)

    def fit(self, report: PreflightReport) -> int:
        """The number of trials that fit into the cluster now. A trial gets a core for each thread by default."""
        if self._cpus is None:
            self._cpus = float(report.threads or 1)
            if self._cpus != 1:
                self._drop_spares()  # they were requested with one core
        have, need = ray.cluster_resources(), {"CPU": self._cpus, "GPU": self._gpus}
        return max(1, int(min(have.get(name, 0) / amount for name, amount in need.items() if amount)))

    def has_room(self) -> bool:
        """Whether a new worker would start at once."""
        self._wanted = time.monotonic()
        while len(self._spares) < max(SPARES, len(self._workers)):  # doubles, so that a hundred nodes are filled fast
            options = {"num_cpus": self._cpus or 1, "num_gpus": self._gpus, "max_restarts": 0, "max_concurrency": 4}
            actor = ray.remote(**options)(RayActor).remote(self._shipment)
            self._spares[actor.place.remote()] = actor
        return self._find_ready() is not None

    def start(self) -> int:
        """Waits for a worker that is ready, and takes it; returns its number."""
        since, is_told = time.monotonic(), False
        while not self.has_room():
            self._check_head()
            if not is_told and time.monotonic() - since > WAIT_SECONDS:
                is_told = True
                print(f"waiting for room on the cluster: {self._room()}", file=sys.stderr)
            ray.wait(list(self._spares), timeout=LOOK_SECONDS)
        found = self._find_ready()
        assert found is not None
        reference, place = found
        number, self._next = self._next, self._next + 1
        self._workers[number] = _Started(actor=self._spares.pop(reference), place=place)
        self._listen(number)
        return number

    def place(self, worker: int) -> str:
        """The node that a worker is on."""
        return str(self._workers[worker].place)

    def send(self, worker: int, message: Any) -> None:
        """Sends a message. If the worker has died, the message is dropped, and `receive` returns a `Lost`."""
        if isinstance(message, Train) and isinstance(message.paths, Path):
            message = replace(message, reach=self._mark(message.paths))
        if worker in self._workers:
            self._workers[worker].actor.tell.remote(message)

    def receive(self, timeout_seconds: float | None = None) -> list[tuple[int, Any]]:
        """Waits for messages, and returns all that have arrived, in the order of each worker."""
        if time.monotonic() - self._wanted > SPARE_SECONDS:  # no more trials to start: give the room back
            self._drop_spares()
        ends = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            self._check_head()
            waiting = [*self._listening, *(self._spares.keys() - self._ready)]
            left = LOOK_SECONDS if ends is None else min(LOOK_SECONDS, max(0.0, ends - time.monotonic()))
            if waiting:
                ray.wait(waiting, timeout=left)
                ready, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0)
                self._ready.update(self._spares.keys() & set(ready))
            else:
                time.sleep(left)
                ready = []
            heard = [said for reference in ready if reference in self._listening for said in self._hear(reference)]
            if heard or ready or (ends is not None and time.monotonic() >= ends):
                return heard

    def stop(self, worker: int) -> None:
        """Ends an idle worker."""
        started = self._workers.pop(worker)
        self._listening = {reference: number for reference, number in self._listening.items() if number != worker}
        ray.kill(started.actor)

    def kill_all(self) -> None:
        """Kills every worker at once. Their files are complete or not there."""
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._marked is not None:
            self._marked.unlink(missing_ok=True)
        if not ray.is_initialized():
            return
        if self._head_misses >= HEAD_TRIES:
            return  # its workers end by themselves
        for actor in [*(started.actor for started in self._workers.values()), *self._spares.values()]:
            ray.kill(actor)
        self._workers.clear()
        self._spares.clear()
        self._listening.clear()
        ray.shutdown()

    def close(self) -> None:
        """Ends every worker after its present work."""
        self.kill_all()  # the driver has received every end

    def _drop_spares(self) -> None:
        for actor in self._spares.values():
            ray.kill(actor)
        self._spares.clear()
        self._ready.clear()

    def _find_ready(self) -> tuple[Any, Place] | None:
        """A worker that has started and is idle. Raises `HarnessError` if none can start."""
        ready, _ = ray.wait(list(self._spares), num_returns=len(self._spares), timeout=0)
        for reference in ready:
            try:
                place = ray.get(reference)
            except RayError as error:
                del self._spares[reference]
                self._failures += CANNOT_START in str(error)  # not if its node was lost before it started
                if self._failures >= START_TRIES or isinstance(error, RuntimeEnvSetupError):
                    message = f"A worker could not start on the cluster: {_last_line(error)}"
                    raise HarnessError(message, exit_code=FAILED) from None
            else:
                self._failures = 0
                return reference, place
        return None

    def _listen(self, worker: int) -> None:
        self._listening[self._workers[worker].actor.listen.remote()] = worker

    def _hear(self, reference: Any) -> list[tuple[int, Any]]:
        number = self._listening.pop(reference)
        started = self._workers[number]
        try:
            said = ray.get(reference)
        except RayError as error:
            del self._workers[number]
            is_node = isinstance(error, ActorUnavailableError)
            if self._head is None or _answers(self._head):  # a call to a lost head would wait for a minute
                ray.kill(started.actor)  # it may still run, behind a broken connection
                alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
                is_node = is_node or started.place.node not in alive
            return [(number, Lost(exit_code=None, place=str(started.place), is_node=is_node))]
        self._listen(number)
        for message in said:
            if isinstance(message, Failed) and message.kind == "place":
                raise HarnessError(f"A worker started on node {started.place}, but {message.message}")
        return [(number, message) for message in said]

    def _mark(self, paths: Path) -> str:
        """Writes a file into the folder of epochs; a worker that finds it sees the same folder."""
        if self._marked is None:
            self._marked = paths / self._reach
            self._marked.touch()
        return self._reach

    def _check_head(self) -> None:
        """Raises `HarnessError` when the head of the cluster is lost. Ray itself would wait for a minute, and abort."""
        if self._head is None or time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        self._head_misses = 0 if _answers(self._head) else self._head_misses + 1
        if self._head_misses >= HEAD_TRIES:
            raise HarnessError(
                f"The head of the Ray cluster at {self._head} is lost. Everything trained so far is kept; "
                "the same command goes on once the cluster is back.",
                exit_code=FAILED,
            )

    def _room(self) -> str:
        have = ray.cluster_resources()
        need = f"a trial needs {self._cpus or 1:g} CPU" + (f" and {self._gpus:g} GPU" if self._gpus else "")
        return f"{need}, it has {have.get('CPU', 0):g} CPU and {have.get('GPU', 0):g} GPU in all"


def _check_fit(option: str, wanted: float | None, resource: str) -> None:
    """Raises `HarnessError` if a trial would need more than this machine has."""
    have = ray.cluster_resources().get(resource, 0)
    if wanted is not None and wanted > have:
        ray.shutdown()
        raise HarnessError(f"{option} {wanted:g}: this machine has {have:g} {resource}.")


def _connect(address: str, folder: Path) -> None:
    """Connects to a cluster, or starts one on this machine. Its workers get this package and the folder."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address not in ("auto", "local") and not (host and port.isdecimal()):
        raise HarnessError(f"--ray {address}: write it as auto, local, HOST:PORT or ray://HOST:PORT.")
    if host and not _answers(f"{host}:{port}"):
        raise HarnessError(f"--ray {address}: nothing answers there; is the head of the cluster up?", exit_code=FAILED)
    environment: dict[str, Any] = {
        "working_dir": str(folder),
        "py_modules": [str(Path(harness.__file__).parent)],
        "env_vars": {
            name: value for name, value in os.environ.items() if name.startswith("HARNESS_") and "://" not in value
        },
        "excludes": ["__pycache__"],
    }
    here = {"num_cpus": count_cores(), "include_dashboard": False} if address == "local" else {}
    # When a node is lost, Ray prints fifty lines of its log. No public option prevents that.
    ray._private.worker._worker_logs_enabled = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # advice about Ray's next versions
            ray.init(address, runtime_env=environment, log_to_driver=False, logging_level="ERROR", **here)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        hint = " Start one with: ray start --head" if address == "auto" else ""
        raise HarnessError(f"--ray {address}: {_first_line(error)}{hint}", exit_code=FAILED) from None


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except OSError:
        return False
    return True


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])


def _last_line(error: Exception) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
