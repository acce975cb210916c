"""The rehearsal: before anything is stored, a few real steps prove whether a run repeats, resumes and shares.

    from scratch           5 steps, validation, 2 steps, validation
    again, a checkpoint    5 steps (other trials are built in between), validation, a checkpoint
    put into fresh parts   2 steps, validation
    from scratch, on a GPU 5 steps and 2 steps by CUDA graph, where a step is one

All losses, gradients, metrics and states must have the same bits. Five and then two steps find counters with a period
of 2, 3 or 4. If training changes a value that no checkpoint has, then a counter is a difference at once, and any other
value is given more steps to have an effect. A difference is named. Then the run shares no epochs, or starts again
after an interruption.
"""

import hashlib
import io
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from harness.errors import HarnessError, NotCaptured
from harness.training.build import Built, check_names, shares_network
from harness.training.checkpoint import build_checkpoint, pack
from harness.training.device import noting_nondeterminism, seed_all
from harness.training.hidden import find_hidden, note_hidden
from harness.training.loop import evaluate, train_epoch
from harness.training.refusals import check_outputs, explain_step
from harness.training.results import Proof, structure_of
from harness.training.schedulers import Siblings, step_schedulers, try_batch_schedulers
from harness.training.state import (
    Knobs,
    TensorDigest,
    capture,
    capture_gradients,
    not_storable,
    read_knobs,
    restore,
    same_bits,
    set_knobs,
    with_digests,
)
from harness.training.user_code import calling

FIRST, THEN = 5, 2  # steps
MORE = 13  # steps instead of the two, if a hidden value changed


@dataclass(frozen=True, kw_only=True)
class Rehearsed:
    """The result of a rehearsal, and its measurements: times in seconds, sizes in bytes."""

    proof: Proof
    step_seconds: float
    state_bytes: int


@dataclass(kw_only=True, eq=False)
class Segment:
    """Some steps of an epoch: their losses, the measures, and the state after them, with digests for its tensors."""

    losses: list[Tensor]
    metrics: dict[str, float]
    knobs: Knobs
    state: dict[str, Any]
    gradients: dict[str, Any]
    has_outputs: bool
    step_seconds: float


def rehearse(built: Built) -> Rehearsed:
    """Rehearses the built parts. Afterwards they are built again, and have the proof.

    If a step, the validation or a checkpoint does not work, raises `HarnessError` that says what to write instead.
    """
    built.proof = Proof(no_graph=built.proof.no_graph)
    first = built.parts
    built.renew()
    if shares_network(first, built.parts):
        built.proof = replace(built.proof, keeps_network=True)
        built.renew()
    del first
    by_batch = bool(built.parts.schedulers) and Built.values_of(built.experiment, "scheduler_step") == "batch"
    if by_batch:
        try_batch_schedulers(built)
    reads: set[str] = set()
    with noting_nondeterminism() as nondeterministic:
        whole = _play_whole(built, reads)
    built.proof = replace(
        built.proof, nondeterministic=tuple(sorted(nondeterministic)), has_outputs=whole[0].has_outputs
    )
    check_names(built)
    proof, state_bytes = _play_again(built, whole, reads)
    built.proof = proof
    proof = replace(proof, no_graph=_try_graph(built, whole, reads))
    searched = (reads | built.reads) & set(built.experiment.hyperparameters)
    built.proof = replace(
        proof,
        by_batch=by_batch,
        reads=frozenset(reads),
        fingerprint=fingerprint_of(whole[0]),
        structure=structure_of(built.experiment.values(), searched),
    )
    built.reads |= reads
    built.renew()
    return Rehearsed(proof=built.proof, step_seconds=whole[0].step_seconds, state_bytes=state_bytes)


def take_fingerprint(built: Built) -> str:
    """The fingerprint of a recipe: its first steps from scratch. Afterwards the parts are built again."""
    built.renew()
    segment = _play(built, 0, FIRST, set())
    built.renew()
    return fingerprint_of(segment)


def fingerprint_of(segment: Segment) -> str:
    """A digest of the losses and of the state after the first steps."""
    digest = hashlib.sha256(repr(with_digests(segment.losses)).encode())

    def add(name: str, value: Any) -> None:
        if isinstance(value, TensorDigest):
            digest.update(f"{name} {value}".encode())
        elif isinstance(value, dict):
            for key, item in value.items():
                add(f"{name}.{key}", item)
        elif isinstance(value, list | tuple):
            for number, item in enumerate(value):
                add(f"{name}.{number}", item)

    for name in ("state_dict", "optimizer", "loss", "buffers"):
        add(name, segment.state.get(name))
    return digest.hexdigest()[:16]


def _play_whole(built: Built, reads: set[str]) -> tuple[Segment, Segment]:
    """From scratch to the end. The user's code runs here for the first time: its errors are explained."""
    try:
        first = _play(built, 0, FIRST, reads, is_checked=True)
    except HarnessError:
        raise
    except Exception as error:
        explain_step(built, error)
        with calling(built.spec, "training the first batches"):
            raise
    _turn(built, first)
    return first, _play(built, 1, THEN, reads)


def _play_again(built: Built, whole: tuple[Segment, Segment], reads: set[str]) -> tuple[Proof, int]:
    """Again from scratch, with siblings, to a checkpoint, and from there in fresh parts: the proof."""
    proof = built.proof
    built.renew()
    before = note_hidden(built)
    built.parts.keeps_gradients = True
    again = _play(built, 0, FIRST, reads, between=lambda: Siblings(built))
    content, size = _packed(built, again.metrics)
    counters, others = find_hidden(built, before)
    others += [f"the attribute {name}" for name in not_storable(built.parts)]
    what = _difference(whole[0], again)
    if what is not None:
        built.renew()
        if _difference(whole[0], _play(built, 0, FIRST, reads)) is None:
            return replace(proof, shares=False, differs=f"building other trials changes its {what}"), size
        return replace(proof, repeats=False, differs=f"the same steps from scratch give other {what}"), size
    if others and not counters:
        whole = _play_longer(built, reads)
    for keeps_gradients in () if counters else (False, True):
        built.proof = replace(proof, keeps_gradients=keeps_gradients)
        what = _go_on(built, content, whole, again.knobs, reads)
        if what is None:
            return built.proof, size
    names = list(dict.fromkeys(counters + others)) or ["something that training changes"]
    verb, shown = "are" if len(names) > 1 else "is", " and ".join(names)
    why = f" ({what} would differ)" if what else ""
    return replace(proof, resumes=False, differs=f"{shown} {verb} in no checkpoint{why}"), size


def _try_graph(built: Built, whole: tuple[Segment, Segment], reads: set[str]) -> str | None:
    """On a GPU: why a step is no CUDA graph; None where graphs give the bits of the steps that were played.

    Raises `NotCaptured` where a capture had begun: then this process is not to go on.
    """
    if built.graph is None or built.graph.reason is not None:
        return built.proof.no_graph
    built.renew()
    count = built.data.steps(built.experiment.batch_size, epoch_steps=built.experiment.epoch_steps)
    if count < FIRST:  # the steps that were played went round the data
        whole = _play_both(built, count, min(THEN, count), reads)
        built.renew()
    try:
        replayed = _play_both(built, min(FIRST, count), min(THEN, count), reads, by_graph=True)
    except NotCaptured as error:
        if error.has_begun:
            raise
        return str(error)
    differ = [_difference(one, replace(other, losses=one.losses)) for one, other in zip(whole, replayed, strict=True)]
    what = next((name for name in differ if name is not None), None)
    return None if what is None else f"a graph gives other {what} than the steps themselves"


def _play_both(
    built: Built, first: int, then: int, reads: set[str], *, by_graph: bool = False
) -> tuple[Segment, Segment]:
    """From scratch to the end, with the schedulers turned in between."""
    segment = _play(built, 0, first, reads, by_graph=by_graph)
    _turn(built, segment)
    return segment, _play(built, 1, then, reads, by_graph=by_graph)


def _play_longer(built: Built, reads: set[str]) -> tuple[Segment, Segment]:
    """From scratch to a later end."""
    built.renew()
    return _play_both(built, FIRST, MORE, reads)


def _go_on(built: Built, content: bytes, whole: tuple[Segment, Segment], knobs: Knobs, reads: set[str]) -> str | None:
    """What differs if the second part starts from a checkpoint in fresh parts; None if nothing does."""
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not built.proof.keeps_gradients:
        state.pop("gradients", None)
    built.renew()
    if Built.values_of(built.experiment, "scheduler_step") == "batch":
        for _ in range(FIRST):
            step_schedulers(built.parts.schedulers, whole[0].metrics, Built.values_of(built.experiment, "monitor"))
    set_knobs(built.parts.optimizers, knobs)
    _turn(built, whole[0])
    try:
        restore(built.parts, state)
    except Exception as error:
        return f"what a checkpoint gives back ({type(error).__name__}: {error})"
    return _difference(whole[1], _play(built, 1, len(whole[1].losses), reads))


def _packed(built: Built, metrics: dict[str, float]) -> tuple[bytes, int]:
    """The checkpoint of the present state as the bytes of its file, and the size of a run's checkpoint."""
    parts, state = built.parts, capture(built.parts)
    checkpoint = build_checkpoint(
        state, optimizer=parts.optimizer,
        groups={name: optimizer.state_dict()["param_groups"] for name, optimizer in parts.optimizers.items()},
        scheduler=None, epoch=0, experiment=built.experiment, metrics=metrics, spec=built.spec,
        run_id="", node="",
    )  # fmt: skip
    content, _ = pack(checkpoint)
    gradients = state.get("gradients", {}).values()
    return content, len(content) - sum(tensor.numel() * tensor.element_size() for tensor in gradients)


def _play(
    built: Built, epoch: int, steps: int, reads: set[str], *,
    between: Callable[[], object] | None = None, is_checked: bool = False, by_graph: bool = False,
) -> Segment:  # fmt: skip
    """The first steps of an epoch, one batch of validation, and the state then."""
    data, experiment = built.data, built.experiment
    with experiment.recording() as seen:
        if by_graph:
            losses, train, seconds = list[Tensor](), _train_by_graph(built, epoch, steps), 0.0
        else:
            losses, train, seconds = _train(built, epoch, steps, between, is_checked)
        batches = data.batches(data.validation, batch_size=experiment.batch_size, device=built.device)
        with calling(built.spec, "validating the first batch"):
            one = itertools.islice(batches, 1)
            validation = evaluate(built.parts, one, device=built.device, precision=built.precision)
    reads |= seen
    metrics = {f"train_{name}": value for name, value in train.items()}
    metrics |= {f"val_{name}": value for name, value in validation.items()}
    return Segment(
        losses=losses,
        metrics=metrics,
        knobs=read_knobs(built.parts.optimizers),
        state=with_digests(capture(built.parts)),
        gradients=with_digests(capture_gradients(built.parts)),
        has_outputs=len(train) == len(validation),
        step_seconds=seconds,
    )


def _train_by_graph(built: Built, epoch: int, steps: int) -> dict[str, float]:
    """The means over the first steps of an epoch, by CUDA graph."""
    assert built.graph is not None
    experiment = built.experiment
    seed_all(experiment.seed, "epoch", epoch)
    experiment.begin_epoch(built.parts.model, built.parts.optimizer, epoch)
    return built.graph.train_epoch(
        seed=experiment.seed, epoch=epoch, steps=steps, after_step=lambda: _step_by_batch(built)
    )


def _step_by_batch(built: Built) -> None:
    if Built.values_of(built.experiment, "scheduler_step") == "batch":
        for scheduler in built.parts.schedulers.values():
            scheduler.step()


def _train(
    built: Built, epoch: int, steps: int, between: Callable[[], object] | None, is_checked: bool
) -> tuple[list[Tensor], dict[str, float], float]:
    """The losses of the first steps of an epoch, their means, and the seconds that a step takes."""
    parts, experiment = built.parts, built.experiment
    losses: list[Tensor] = []
    clock: list[float] = []
    step = experiment.step

    def noting(model: Any, loss: Any, optimizer: Any, inputs: Tensor, targets: Tensor) -> Any:
        returned = step(model, loss, optimizer, inputs, targets)
        if is_checked and not losses:
            check_outputs(built, returned, targets)
        losses.append(returned[0].detach().clone())
        clock.append(time.perf_counter())
        return returned

    def after_step() -> None:
        _step_by_batch(built)
        if between is not None and len(losses) == 2:
            between()

    vars(experiment)["step"] = noting
    try:
        seed_all(experiment.seed, "epoch", epoch)
        experiment.begin_epoch(parts.model, parts.optimizer, epoch)
        batches = itertools.islice(_batches(built, epoch), steps)
        means = train_epoch(parts, batches, device=built.device, precision=built.precision, after_step=after_step)
    finally:
        vars(experiment).pop("step", None)
    clock.append(time.perf_counter())  # after the means were read: the device has done all of it
    return losses, means, (clock[-1] - clock[0]) / max(len(losses) - 1, 1)


def _batches(built: Built, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of an epoch, repeated if there are few."""
    experiment = built.experiment
    while True:
        yield from built.data.train_batches(
            batch_size=experiment.batch_size, seed=experiment.seed, epoch=epoch, device=built.device,
            epoch_steps=experiment.epoch_steps,
        )  # fmt: skip


def _turn(built: Built, segment: Segment) -> None:
    """Steps the schedulers as they are after an epoch with these metrics."""
    if Built.values_of(built.experiment, "scheduler_step") == "epoch":
        with calling(built.spec, "stepping the scheduler"):
            step_schedulers(built.parts.schedulers, segment.metrics, Built.values_of(built.experiment, "monitor"))


def _difference(one: Segment, other: Segment) -> str | None:
    """What differs between two segments that should be equal; None if nothing does."""
    if not same_bits(one.losses, other.losses):
        return "losses"
    if not same_bits(one.gradients, other.gradients):
        return "gradients"
    names = {"state_dict": "weights", "loss": "state of the loss", "optimizer": "state of the optimizer"}
    for name in ("state_dict", "buffers", "loss", "optimizer", "frozen", "scaler"):
        if not same_bits(one.state.get(name), other.state.get(name)):
            return names.get(name, name)
    left, right = (segment.state.get("attributes", {}) for segment in (one, other))
    for name in left.keys() & right.keys():
        if not same_bits(left[name], right[name]):
            return f"values of self.{name}"
    for name, value in one.metrics.items():
        if value != other.metrics[name] and not (math.isnan(value) and math.isnan(other.metrics[name])):
            return name
    return None
