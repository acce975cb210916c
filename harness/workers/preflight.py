"""Tries everything that a run does, with one batch, before a sweep starts. What would fail in an hour fails now."""

import io
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import FAILED, HarnessError
from harness.objects import check_address
from harness.spec import Spec
from harness.training.build import Built, DataCache, build, calling, recipe_of
from harness.training.checkpoint import build_checkpoint, pack
from harness.training.device import choose_device, choose_threads, describe_device, seed_all
from harness.training.loop import autocast, evaluate, train_epoch
from harness.training.recipe import code_digests
from harness.training.start import begin_from, read_start
from harness.training.state import capture, restore, same_bits
from harness.workers.messages import Preflight, PreflightReport

TIMED_SECONDS = 0.15
CONTEXT_BYTES = 600 * 2**20  # of a process on a GPU, beside its tensors


def preflight(request: Preflight, spec: Spec, cache: DataCache) -> PreflightReport:
    """Trains, validates, saves and loads one batch, where the search space needs most memory, and times it."""
    paths_note = None if request.paths is None else check_address(request.paths)
    device = choose_device(request.device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def build_with(values: Mapping[str, Any]) -> Built:
        return build(spec, values, device=device, cache=cache, is_demo=request.is_demo)

    built = build_with(request.values)
    corner = _find_corner(built, request, build_with)
    if corner:
        largest = build_with(request.values | corner)
        _pass_through(largest)
        del largest
    state_bytes = _pass_through(built)
    start_note = None
    if request.start is not None:
        begun = build_with(request.values)
        start = read_start(request.start, begun)
        begin_from(begun, start)
        start_note = "; ".join(start["notes"])
    data = built.data
    experiment = built.experiment
    recipe = recipe_of(built, run_id="")
    return PreflightReport(
        epoch_seconds=_time_epoch(built),
        state_bytes=state_bytes,
        device=describe_device(device),
        precision=built.precision,
        threads=choose_threads(experiment.threads) if device.type == "cpu" else None,
        recipe=recipe.parts(),
        recipe_digest=recipe.digest,
        code=code_digests(spec, scheduler=True),
        model=type(built.model).__name__,
        parameters=sum(parameter.numel() for parameter in built.model.parameters()),
        data=data.name,
        train_images=len(data.train),  # type: ignore[arg-type]
        corner=corner,
        paths_note=paths_note,
        start_note=start_note,
        data_notes=data.notes,
        **_gpu_memory(device),
    )


def _gpu_memory(device: torch.device) -> dict[str, int]:
    """What is free on the GPU, and what a trial took of it."""
    if device.type != "cuda":
        return {}
    took = torch.cuda.max_memory_reserved(device)
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_reserved(device)
    return {"gpu_bytes": free + held + CONTEXT_BYTES, "trial_bytes": took + CONTEXT_BYTES}


def _pass_through(built: Built) -> int:
    """A batch of training, one of validation, a checkpoint and back; the bytes of a state."""
    experiment, data, device = built.experiment, built.data, built.device
    common: dict[str, Any] = {"measures": built.measures, "device": device, "precision": built.precision}
    try:
        with calling(built.spec, "training the first batch"):
            seed_all(experiment.seed, "preflight")
            batches = data.train_batches(batch_size=experiment.batch_size, seed=0, epoch=0, device=device)
            train_epoch(built.model, built.loss, built.optimizer, _first(batches, 1), **common)
            if built.graph is not None and built.graph.reason is None:
                built.graph.train_epoch(seed=0, epoch=0, steps=3)  # to capture takes more memory than the steps
        with calling(built.spec, "validating the first batch"):
            batches = data.batches(data.validation, batch_size=experiment.batch_size, device=device)
            metrics = evaluate(built.model, built.loss, _first(batches, 1), **common)
    except torch.OutOfMemoryError:
        values = ", ".join(f"{name}={value}" for name, value in experiment.params().items())
        raise HarnessError(
            f"{built.spec.path}: a batch of {experiment.batch_size} does not fit into the memory of {device} "
            f"({values}); choose a smaller batch_size or model.",
            exit_code=FAILED,
        ) from None
    state = capture(built.model, built.optimizer)
    checkpoint = build_checkpoint(
        state, scheduler=None if built.scheduler is None else built.scheduler.state_dict(), epoch=0,
        experiment=experiment, metrics=metrics, spec=built.spec, run_id="", node="",
    )  # fmt: skip
    content, _ = pack(checkpoint)
    with calling(built.spec, "reading a checkpoint back"):
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        restore(built.model, built.optimizer, loaded)
    if not same_bits(capture(built.model, built.optimizer), state):
        raise HarnessError(f"{built.spec.path}: the model or optimizer is not the same after saving and loading.")
    return len(content)


def _time_epoch(built: Built) -> float:
    """Seconds that a training epoch and its validation take, from some tenths of a second of batches."""
    experiment, data, device = built.experiment, built.data, built.device
    common: dict[str, Any] = {"measures": built.measures, "device": device, "precision": built.precision}
    steps = data.steps(experiment.batch_size)
    count, seconds = 1, 0.0
    while True:
        batches = data.train_batches(batch_size=experiment.batch_size, seed=0, epoch=0, device=device)
        started = time.perf_counter()
        train_epoch(built.model, built.loss, built.optimizer, _first(batches, count), **common)
        seconds = time.perf_counter() - started
        if seconds > TIMED_SECONDS / 2 or count >= steps:
            break
        count = min(steps, max(count + 1, round(count * TIMED_SECONDS / max(seconds, 1e-3))))
    share = len(data.validation) / max(len(data.train), 1) / 3  # type: ignore[arg-type]  # no backward pass
    return seconds / count * steps * (1 + share)


def _find_corner(built: Built, request: Preflight, build_with: Any) -> dict[str, Any]:
    """The values, among the ends of each searched range, that need most memory. Empty: the defaults do."""
    experiment = built.experiment
    with experiment.recording() as reads, calling(built.spec, "model()"):
        experiment.model()
    names = [name for name in request.searched if name in reads | {"batch_size"}]
    most = _memory_bytes(built) if names else 0
    corner: dict[str, Any] = {}
    for name in names:
        for value in experiment.hyperparameters[name].points(8):
            try:
                need = _memory_bytes(build_with(request.values | corner | {name: value}))
            except torch.OutOfMemoryError:
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
    with torch.no_grad(), autocast(built.device, built.precision):
        built.model.eval()(inputs)
    for handle in handles:
        handle.remove()
    parameters = sum(p.numel() * p.element_size() for p in built.model.parameters())
    return 4 * parameters + outputs * built.experiment.batch_size // len(inputs)


def _first(batches: Iterator[tuple[Tensor, Tensor]], count: int) -> Iterator[tuple[Tensor, Tensor]]:
    for _, batch in zip(range(count), batches, strict=False):
        yield batch
