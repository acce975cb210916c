"""Tries everything that a run does, with one batch, before a sweep starts. What would fail in an hour fails now."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import FAILED, HarnessError
from harness.faults import out_of_memory
from harness.objects import check_address
from harness.spec import Spec
from harness.training.build import Built, build
from harness.training.data_cache import DataCache
from harness.training.device import begin_on, choose_device, choose_threads, describe_device
from harness.training.fingerprints import check_fingerprint
from harness.training.recipe import code_digests, recipe_of
from harness.training.rehearsal import rehearse, take_fingerprint
from harness.training.results import Proof
from harness.training.run import train_one
from harness.training.start import begin_from, read_start
from harness.training.step import autocast
from harness.training.user_code import calling
from harness.workers.messages import Preflight, PreflightReport

CONTEXT_BYTES = 600 * 2**20  # of a process on a GPU, beside its tensors


def preflight(request: Preflight, spec: Spec, cache: DataCache) -> PreflightReport:
    """Rehearses a run, tries the values of the search space that need most memory, and estimates time and memory."""
    paths_note = check_address(request.paths) if isinstance(request.paths, str) else None
    device = choose_device(request.device)
    begin_on(device)

    def build_with(values: Mapping[str, Any], proof: Proof | None = None) -> Built:
        return build(spec, values, device=device, cache=cache, is_demo=request.is_demo, proof=proof)

    built = build_with(request.values, Proof(no_graph=request.no_graph))
    with _memory_explained(built):
        rehearsed = rehearse(built)
    proof = rehearsed.proof
    corner = _find_corner(built, request, lambda values: build_with(values, proof))
    if corner:
        _train_one_batch(build_with(request.values | corner, proof))
    start_note = None
    if request.start is not None:
        begun = build_with(request.values, proof)
        start = read_start(request.start, begun)
        begin_from(begun, start)
        start_note = "; ".join(start["notes"])
    recipe = recipe_of(built, run_id="")
    checked = check_fingerprint(
        request.paths,
        recipe.family_digest,
        values=request.values,
        fingerprint=proof.fingerprint,
        take=lambda values: take_fingerprint(build_with(_known(built, values), proof)),
    )
    data, experiment = built.data, built.experiment
    return PreflightReport(
        epoch_seconds=_epoch_seconds(built, rehearsed.step_seconds),
        state_bytes=rehearsed.state_bytes,
        device=describe_device(device),
        precision=built.precision,
        threads=choose_threads(experiment.threads) if device.type == "cpu" else None,
        recipe=recipe.parts(),
        recipe_digest=recipe_of(built, run_id="", generation=checked.generation).digest,
        code=code_digests(spec, scheduler=True),
        model=type(built.model).__name__,
        parameters=sum(parameter.numel() for parameter in built.model.parameters()),
        data=data.name,
        train_images=len(data.train),  # type: ignore[arg-type]
        corner=corner,
        proof=proof,
        schedules_by=frozenset(built.scheduler_reads),
        generation=checked.generation,
        fingerprints=checked.kept,
        fingerprint_note=checked.note,
        paths_note=paths_note,
        start_note=start_note,
        data_notes=data.notes,
        **_gpu_memory(device),
    )


def _known(built: Built, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of an earlier command, as far as the spec still has them."""
    present = built.experiment.values()
    kept = {name: value for name, value in values.items() if name in present}
    return built.values | {
        n: tuple(v) if isinstance(v, list) and isinstance(present[n], tuple) else v for n, v in kept.items()
    }


def _gpu_memory(device: torch.device) -> dict[str, int]:
    """The free memory of the GPU, and the memory that a trial took."""
    if device.type != "cuda":
        return {}
    took = torch.cuda.max_memory_reserved(device)
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_reserved(device)
    return {"gpu_bytes": free + held + CONTEXT_BYTES, "trial_bytes": took + CONTEXT_BYTES}


def _train_one_batch(built: Built) -> None:
    """Trains one batch, to see its memory."""
    with _memory_explained(built), calling(built.spec, "training the first batch"):
        train_one(built, 0, after_step=lambda: None, steps=1)
        if built.graph is not None and built.graph.reason is None:
            built.graph.train_epoch(seed=0, epoch=0, steps=3)  # the capture needs more memory than the steps


@contextmanager
def _memory_explained(built: Built) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if out_of_memory(error) is None:
            raise
        experiment = built.experiment
        values = ", ".join(f"{name}={value}" for name, value in experiment.params().items())
        raise HarnessError(
            f"{built.spec.path}: a batch of {experiment.batch_size} does not fit into the memory of {built.device} "
            f"({values}); choose a smaller batch_size or model.",
            exit_code=FAILED,
        ) from None


def _epoch_seconds(built: Built, step_seconds: float) -> float:
    """Seconds that a training epoch and its validation take, from those of a step."""
    experiment, data = built.experiment, built.data
    share = len(data.validation) / max(len(data.train), 1) / 3  # type: ignore[arg-type]  # no backward pass
    return step_seconds * data.steps(experiment.batch_size, epoch_steps=experiment.epoch_steps) * (1 + share)


def _find_corner(built: Built, request: Preflight, build_with: Any) -> dict[str, Any]:
    """The values, among the ends of each searched range, that need most memory. Empty: the defaults do."""
    experiment = built.experiment
    names = [name for name in request.searched if name in built.model_reads | {"batch_size"}]
    most = _memory_bytes(built) if names else 0
    corner: dict[str, Any] = {}
    for name in names:
        for value in experiment.hyperparameters[name].points(8):
            try:
                need = _memory_bytes(build_with(request.values | corner | {name: value}))
            except RuntimeError as error:
                if out_of_memory(error) is None:
                    raise
                need = 2**63
            if need > most:
                most, corner = need, corner | {name: value}
    return corner


def _memory_bytes(built: Built) -> int:
    """Roughly what training needs: four copies of the parameters and the outputs of every layer for a batch."""
    outputs = 0

    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal outputs
        if isinstance(output, Tensor):
            outputs += output.numel() * output.element_size()

    leaves = [module for module in built.model.modules() if not list(module.children())]
    handles = [module.register_forward_hook(count) for module in leaves]
    inputs, _ = next(iter(built.data.batches(built.data.train, batch_size=2, device=built.device)))
    try:
        with torch.no_grad(), autocast(built.device, built.precision):
            built.experiment.predict(built.model.eval(), inputs)
    finally:
        for handle in handles:
            handle.remove()
    parameters = sum(p.numel() * p.element_size() for p in built.model.parameters())
    return 4 * parameters + outputs * built.experiment.batch_size // len(inputs)
