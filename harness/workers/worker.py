"""A worker: a process that loads specs, trains runs, and sends messages about them. It has no store and no screen."""

import signal
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from harness.errors import HarnessError, NotCaptured, UserCodeError
from harness.faults import KEPT, MACHINE, SCARCE, device_fault, machine_fault, out_of_memory, shortage
from harness.files import scratch_folder
from harness.machine import end_with_parent, keep_memory
from harness.models import summarize
from harness.spec import Spec, load_spec
from harness.training.build import Built, build
from harness.training.checkpoint import versions
from harness.training.data_cache import DataCache
from harness.training.device import (
    begin_on,
    choose_device,
    choose_threads,
    describe_device,
    free_memory,
    make_deterministic,
)
from harness.training.fingerprints import keep_fingerprints
from harness.training.recipe import code_digests
from harness.training.rehearsal import rehearse
from harness.training.remote import node_folder
from harness.training.results import Proof, structure_of
from harness.training.run import Walk
from harness.workers.messages import Checkpoint, Describe, Done, Failed, Preflight, Prepared, Request, Train, Verdict
from harness.workers.preflight import preflight

Send = Callable[[Any], None]
Receive = Callable[[], Any]


def main(connection: Connection) -> None:
    """Serves requests until the driver sends None or has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the driver decides what to do
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()
    worker = Worker()
    try:
        while (request := connection.recv()) is not None:
            worker.serve(request, connection.send, connection.recv)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass


class Worker:
    """Answers one request at a time. Keeps the spec and the data of the last one."""

    def __init__(self) -> None:
        keep_memory()
        self._cache = DataCache()
        self._spec: Spec | None = None
        self._proofs: dict[tuple[tuple[str, str], ...], Proof] = {}  # of rehearsals with other values

    def serve(self, request: Request, send: Send, receive: Receive) -> None:
        """Serves a request; an error becomes a `Failed`."""
        try:
            match request:
                case Describe():
                    send(self.load(request.spec).describe())
                case Preflight():
                    spec = self.load(request.spec)
                    self._set_threads(spec, request.values)
                    send(preflight(request, spec, self._cache))
                case Train(checkpoints=None):
                    with scratch_folder(node_folder(str(request.paths))) as folder:
                        send_all = partial(_send_with_files, folder, send)
                        self._train(replace(request, checkpoints=folder), send_all, receive)
                case Train():
                    self._train(request, send, receive)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:
            send(_failed(error, request))
        finally:
            free_memory()

    def load(self, path: Path) -> Spec:
        """Loads a spec, and keeps it for later runs."""
        self._spec = load_spec(path)
        self._proofs.clear()
        return self._spec

    def _load_late(self, request: Train) -> Spec | None:
        """Loads the spec in a worker that has none yet; None if it has changed since the command began."""
        try:
            spec = self.load(request.spec)
        except HarnessError:
            if request.code is None:
                raise
            return None
        return spec if request.code in (None, code_digests(spec, scheduler=True)) else None

    def _build(self, spec: Spec, request: Train, device: torch.device) -> Built:
        """The run's parts, with a proof: the command's, or this worker's own if it runs other code."""
        proof = request.proof
        if proof is not None:
            values = spec.experiment.defaults() | request.values
            structure = structure_of(values, {name for name, _ in proof.structure})
            proof = proof if structure == proof.structure else self._proofs.get(structure)
        first = Proof(no_graph=request.no_graph) if proof is None else proof
        if request.no_graph is not None:
            first = replace(first, no_graph=request.no_graph)
        built = build(spec, request.values, device=device, cache=self._cache, is_demo=request.is_demo, proof=first)
        if proof is None:
            proof = rehearse(built).proof
            self._proofs[proof.structure] = proof
        return built

    def _set_threads(self, spec: Spec, values: dict[str, Any]) -> None:
        make_deterministic(choose_threads((spec.experiment.defaults() | values)["threads"]))

    def _train(self, request: Train, send: Send, receive: Receive) -> None:
        assert request.checkpoints is not None
        spec = self._spec if self._spec is not None and self._spec.path == request.spec else self._load_late(request)
        if spec is None:
            message = (
                f"{request.spec} was edited while it was running. Everything trained so far is kept; the same command "
                "goes on with the file as it is now."
            )
            send(Failed(kind="edited", message=message))
            return
        self._set_threads(spec, request.values)
        device = choose_device(request.device)
        begin_on(device)
        built = self._build(spec, request, device)
        if request.fingerprints is not None:
            keep_fingerprints(request.paths, request.fingerprints)
        run = Walk(
            built,
            run_id=request.run_id,
            paths=request.paths,
            budget_bytes=request.budget_bytes,
            checkpoints=request.checkpoints,
            start=request.start,
            generation=request.generation,
            until=request.until,
        )
        try:
            recipe = run.recipe
            if request.expected_recipe not in (None, recipe.digest):
                send(
                    Failed(
                        kind="recipe",
                        message="interrupted, and its recipe (code, data, device, versions) has changed since",
                    )
                )
                return
            experiment = built.experiment
            send(
                Prepared(
                    recipe_digest=recipe.digest,
                    base_digest=recipe.base_digest,
                    recipe=recipe.parts(),
                    summary=summarize(built.model),
                    data_name=built.data.name,
                    data_digest=built.data.digest,
                    data_description=dict(built.data.description),
                    versions=versions(),
                    sources=spec.sources,
                    device=describe_device(device),
                    precision=built.precision,
                    step=built.step,
                    threads=choose_threads(experiment.threads) if device.type == "cpu" else None,
                    private=recipe.private,
                    rehearsal=built.proof.sentence(),
                    classes=built.data.classes or (),
                )
            )
            epochs = reused = 0
            is_diverged = False
            for result in run.epochs():
                epochs, reused = epochs + 1, reused + result.reused
                is_diverged = not result.is_finite
                send(result)
                if request.awaits_verdict:
                    verdict = receive()
                    if not isinstance(verdict, Verdict) or not verdict.goes_on:
                        break
            run.finish()
            peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
            send(
                Done(
                    epochs=epochs,
                    reused_epochs=reused,
                    is_diverged=is_diverged,
                    peak_memory_bytes=peak,
                    shared=tuple(run.shared()),
                )
            )
        finally:
            run.close()


def _send_with_files(folder: Path, send: Send, message: Any) -> None:
    """Sends a message; before the last message of a run, also its checkpoints."""
    if isinstance(message, Done):
        for file in sorted(folder.glob("*.pth.tar")):
            send(Checkpoint(name=file.name, content=file.read_bytes()))
    send(message)


def _failed(error: Exception, request: Request) -> Failed:
    if (short := out_of_memory(error)) is not None:
        return Failed(kind="memory", message=_first_line(short), trace=traceback.format_exc())
    if (fault := device_fault(error)) is not None:
        trace = error.trace if isinstance(error, UserCodeError) else traceback.format_exc()
        return Failed(kind="device", message=f"the GPU reported an error: {_first_line(fault)}", trace=trace)
    # On the spec's first try, a file that its own code may not read is the user's to mend: the traceback says where.
    is_first = isinstance(error, UserCodeError) and not isinstance(request, Train)
    lacking = machine_fault(error, SCARCE if is_first else MACHINE)
    if lacking is not None:
        return Failed(kind="machine", message=f"{lacking}. {KEPT}")
    if isinstance(error, UserCodeError):
        return Failed(kind="user", message=str(error), trace=error.trace, exit_code=error.exit_code)
    if isinstance(error, NotCaptured):
        return Failed(kind="graph", message=str(error))
    if isinstance(error, HarnessError):
        return Failed(kind="spec", message=str(error), exit_code=error.exit_code)
    if (lacking := shortage()) is not None:
        return Failed(kind="machine", message=f"{lacking}. {KEPT}")
    return Failed(kind="bug", message=f"{type(error).__name__}: {error}", trace=traceback.format_exc())


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
