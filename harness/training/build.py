"""Builds what a run needs from an experiment, and finds out on the way which values fix an epoch."""

import copy
import importlib.metadata
import inspect
import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from harness.data import Data
from harness.demo import demo
from harness.errors import USAGE, HarnessError, UserCodeError, did_you_mean, user_trace
from harness.experiment import Experiment, direction_of
from harness.spec import Spec
from harness.training.device import (
    choose_precision,
    choose_threads,
    describe_device,
    is_out_of_memory,
    noting_nondeterminism,
    seed_all,
    set_products,
)
from harness.training.graph import StepGraph, fuse
from harness.training.loop import autocast
from harness.training.measures import default_measures
from harness.training.recipe import Recipe, build_recipe, code_digests
from harness.training.state import Knobs, read_knobs, same_bits

MOST_SIBLINGS = 512


@dataclass(kw_only=True, eq=False)
class Built:
    """Everything that trains: made anew for each run, except the data."""

    spec: Spec
    experiment: Experiment
    device: torch.device
    precision: str
    data: Data
    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: Optimizer
    scheduler: Any
    measures: dict[str, Any]
    reads: set[str]
    scheduler_reads: set[str]
    nondeterministic: set[str]
    unsaved: set[str]  # tensors that training changes and no checkpoint holds
    is_demo: bool
    graph: StepGraph | None = None  # on CUDA

    @property
    def step(self) -> str:
        """How a training step is launched."""
        if self.graph is None or self.graph.reason is None:
            return "eager" if self.graph is None else "CUDA graph"
        return f"eager: {self.graph.reason}"

    @property
    def maximize(self) -> bool:
        """Whether a larger objective is a better one."""
        return direction_of(self.experiment.objective, self.experiment.direction) == "maximize"

    @property
    def metric_names(self) -> list[str]:
        """The metrics of an epoch."""
        return [f"{part}_{name}" for part in ("train", "val") for name in ("loss", *self.measures)]


@dataclass(eq=False)
class DataCache:
    """The data of the last experiment that was built here, for the next one that would build the same."""

    key: tuple[Any, ...] | None = None
    reads: set[str] = field(default_factory=set)
    data: Data | None = None

    def get(self, spec: Spec, experiment: Experiment, device: torch.device, *, is_demo: bool) -> Data:
        """`experiment.data()` on the device; reads are noted on the experiment as if it had been called."""
        if self.data is None or self.key != self._key(spec, experiment, device, is_demo):
            seed_all(0, "data")  # the same for each seed, and whatever was trained before in this process
            with experiment.recording() as reads, calling(spec, "data()"):
                data = experiment.data()
            if not isinstance(data, Data):
                raise HarnessError(
                    f"{spec.path}: data() returns {type(data).__name__}; return one of harness.data, "
                    "such as tensors(...) or datasets(...)."
                )
            self.data, self.reads = data.to(device), reads
            self.key = self._key(spec, experiment, device, is_demo)
        for name in self.reads:
            experiment.read(name)
        return self.data

    def _key(self, spec: Spec, experiment: Experiment, device: torch.device, is_demo: bool) -> tuple[Any, ...]:
        values = experiment.values()
        return (
            spec.digest,
            str(spec.path),
            str(device),
            is_demo,
            *(repr(values[name]) for name in sorted(self.reads)),
        )


def build(
    spec: Spec, values: Mapping[str, Any], *, device: torch.device, cache: DataCache, is_demo: bool = False
) -> Built:
    """Builds an experiment with these values; raises `HarnessError` where its parts do not fit together."""
    experiment = spec.build(values)
    with demo(is_demo), experiment.recording() as reads:
        data = cache.get(spec, experiment, device, is_demo=is_demo)
        model = _fresh_model(spec, experiment, data, device)
        with calling(spec, "loss()"):
            loss = experiment.loss()
        if isinstance(loss, nn.Module):
            loss.to(device)
        optimizer = _build_optimizer(spec, experiment, model, device)
        with calling(spec, "metrics()"):
            measures = dict(default_measures(data, loss) if (own := experiment.metrics()) is None else own)
        measures = {name: m.to(device) if isinstance(m, nn.Module) else m for name, m in measures.items()}
        precision = choose_precision(experiment.precision, device)
        set_products(precision)
        nondeterministic, unsaved = _probe(spec, data, model, loss, measures, device, precision)
        if experiment.compile:
            torch.use_deterministic_algorithms(True, warn_only=True)  # the compiler's own choices too
            model.compile()
    with experiment.recording() as scheduler_reads, calling(spec, "scheduler()"):
        scheduler = experiment.scheduler(optimizer)
    if scheduler is not None and not isinstance(scheduler, LRScheduler):
        raise HarnessError(
            f"{spec.path}: scheduler() returns {type(scheduler).__name__}; "
            "return a scheduler of torch.optim.lr_scheduler, or None."
        )
    built = Built(
        spec=spec,
        experiment=experiment,
        device=device,
        precision=precision,
        data=data,
        model=model,
        loss=loss,
        optimizer=optimizer,
        scheduler=scheduler,
        measures=measures,
        reads=reads,
        scheduler_reads=scheduler_reads,
        nondeterministic=nondeterministic,
        unsaved=unsaved,
        is_demo=is_demo,
    )
    _check_names(built)
    if device.type == "cuda":
        built.graph = StepGraph(
            model, loss, optimizer, data, measures=measures, device=device, precision=precision,
            batch_size=experiment.batch_size,
        )  # fmt: skip
    return built


def rebuild(built: Built, *, is_demo: bool) -> None:
    """Puts the model and the optimizer back to their initial state; the learning rate stays."""
    with demo(is_demo):
        fresh = _fresh_model(built.spec, built.experiment, built.data, built.device)
    built.model.load_state_dict(fresh.state_dict())
    with torch.no_grad():
        for buffer, initial in zip(built.model.buffers(), fresh.buffers(), strict=True):
            buffer.copy_(initial)  # those that are not in the state as well
    groups = built.optimizer.state_dict()["param_groups"]
    built.optimizer.load_state_dict({"state": {}, "param_groups": groups})


def _fresh_model(spec: Spec, experiment: Experiment, data: Data, device: torch.device) -> nn.Module:
    """The network with its initial weights; lazy layers have seen two images."""
    seed_all(experiment.seed, "model")
    with calling(spec, "model()"):
        model = experiment.model()
    if not isinstance(model, nn.Module):
        raise HarnessError(f"{spec.path}: model() returns {type(model).__name__}; return an nn.Module.")
    with calling(spec, "a copy of the model"):
        model = copy.deepcopy(model)  # a network that the spec keeps, such as a pretrained one, is not trained itself
    model.to(device)
    if any(is_lazy(tensor) for tensor in itertools.chain(model.parameters(), model.buffers())):
        inputs, _ = next(iter(data.batches(data.train, batch_size=2, device=device)))
        with calling(spec, "the model"), torch.no_grad():
            model.eval()(inputs)
        model.train()
    return model.to(memory_format=torch.channels_last)


def _build_optimizer(spec: Spec, experiment: Experiment, model: nn.Module, device: torch.device) -> Optimizer:
    with calling(spec, "optimizer()"):
        optimizer = experiment.optimizer(model.parameters())
    if not isinstance(optimizer, Optimizer):
        raise HarnessError(f"{spec.path}: optimizer() returns {type(optimizer).__name__}, not an optimizer.")
    fuse(optimizer, model, device)
    return optimizer


def recipe_of(built: Built, *, run_id: str, start: str | None = None) -> Recipe:
    """The recipe of a built experiment; `start` is the digest of a checkpoint that it begins with."""
    experiment = built.experiment
    rest = {
        "data": f"{built.data.name} {built.data.digest[:16]}",
        "seed": experiment.seed,
        "batch_size": experiment.batch_size,
        "precision": built.precision,
        "compile": experiment.compile,
        "device": describe_device(built.device),
        "torchvision": importlib.metadata.version("torchvision"),
    }
    if built.data.workers:
        rest["workers"] = built.data.workers  # each draws for itself
    if built.device.type == "cpu":
        rest["threads"] = choose_threads(experiment.threads)
    if built.is_demo:
        rest["demo"] = "narrow networks"
    if start is not None:
        rest["start"] = start
    private = None
    if built.nondeterministic:
        private = f"{', '.join(sorted(built.nondeterministic))} cannot repeat its bits on {built.device} ({run_id})"
    elif built.unsaved:
        private = f"no checkpoint holds {', '.join(sorted(built.unsaved))}, which changes in training ({run_id})"
    elif built.scheduler is not None and experiment.scheduler_step == "batch":
        code = code_digests(built.spec, scheduler=True)
        private = f"the scheduler steps every batch {experiment.params()} {experiment.epochs} epochs {code}"
    return build_recipe(built.spec, experiment.values(), built.reads, rest, private)


def step_scheduler(scheduler: Any, metrics: Mapping[str, float], monitor: str) -> None:
    """Steps a scheduler after an epoch, with the monitored metric if it asks for one."""
    with warnings.catch_warnings():
        # Torch warns where a scheduler steps before its optimizer: a path that is replayed has no steps.
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        if asks_for_metric(scheduler):
            scheduler.step(metrics[monitor])
        else:
            scheduler.step()


class Siblings:
    """The other runs of the search space that are still on this run's path.

    They differ from it in hyperparameters that only `scheduler()` reads. Where one of them would leave
    the path, the state is worth keeping: it is where that sibling would start to train.
    """

    def __init__(self, built: Built) -> None:
        searched = built.experiment.hyperparameters
        names = sorted((built.scheduler_reads - built.reads) & set(searched))
        most = MOST_SIBLINGS if not names else max(2, round(MOST_SIBLINGS ** (1 / len(names))))
        grid = itertools.product(*(searched[name].points(most) for name in names)) if names else ()
        self._monitor = built.experiment.monitor
        self._alive: list[tuple[Optimizer, Any]] = []
        if built.experiment.scheduler_step == "epoch" and built.scheduler is not None:
            for point in itertools.islice(grid, MOST_SIBLINGS):
                values = built.experiment.values() | dict(zip(names, point, strict=True))
                sibling = built.spec.build(values)
                with calling(built.spec, f"scheduler() with {dict(zip(names, point, strict=True))}"):
                    optimizer = _build_optimizer(built.spec, sibling, built.model, built.device)
                    self._alive.append((optimizer, sibling.scheduler(optimizer)))

    def advance(self, metrics: Mapping[str, float], knobs: Knobs) -> bool:
        """Steps every sibling; True if one chose other options than `knobs`, and so leaves the path."""
        count = len(self._alive)
        for _, scheduler in self._alive:
            step_scheduler(scheduler, metrics, self._monitor)
        self._alive = [pair for pair in self._alive if read_knobs(pair[0]) == knobs]
        return len(self._alive) < count


@contextmanager
def calling(spec: Spec, what: str, exit_code: int = USAGE) -> Iterator[None]:
    """Runs the user's code: its exceptions carry a traceback from the user's frame down."""
    try:
        yield
    except HarnessError:
        raise
    except (Exception, SystemExit) as error:  # sys.exit() in a spec ends neither a worker nor a sweep
        if is_out_of_memory(error):
            raise
        message = f"{spec.path}: {what} raised {type(error).__name__}: {error}"
        raise UserCodeError(message, trace=user_trace(error), exit_code=exit_code) from error


def asks_for_metric(scheduler: Any) -> bool:
    """Whether a scheduler's `step` needs a metric, as ReduceLROnPlateau's does."""
    parameters = inspect.signature(scheduler.step).parameters.values()
    return any(
        parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        for parameter in parameters
    )


def _probe(
    spec: Spec,
    data: Data,
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    measures: Mapping[str, Any],
    device: torch.device,
    precision: str,
) -> tuple[set[str], set[str]]:
    """Two images through a copy of the model, forward and backward, and once as in validation.

    Reads that happen only inside `forward` or the loss are seen, operations that cannot repeat their bits and
    tensors that change and are not saved are named, and a model that does not fit the data is found before
    anything is stored.
    """
    before = _unsaved(model, loss)
    model = copy.deepcopy(model).train()
    loss = copy.deepcopy(loss) if isinstance(loss, nn.Module) else loss
    inputs, targets = next(iter(data.batches(data.train, batch_size=2, device=device)))
    with noting_nondeterminism() as nondeterministic:
        with calling(spec, "the model"), autocast(device, precision):
            outputs = model(inputs)
        _check_outputs(spec, data, outputs, targets)
        with calling(spec, "the loss"):
            value = loss(outputs.float(), targets)
        if not isinstance(value, Tensor) or value.dim() != 0:
            raise HarnessError(f"{spec.path}: the loss must be one number, a mean over the batch.")
        with calling(spec, "the backward pass"):
            value.backward()  # type: ignore[no-untyped-call]
        for name, measure in measures.items():
            if not hasattr(measure, "update"):
                with calling(spec, f"the metric {name}"):
                    measure(outputs.detach().float(), targets)
        with calling(spec, "the model, in evaluation mode,"), autocast(device, precision), torch.no_grad():
            loss(model.eval()(inputs).float(), targets)
    after = _unsaved(model, loss)
    return nondeterministic, {name for name, tensor in after.items() if not same_bits(tensor, before.get(name))}


def _unsaved(model: nn.Module, loss: Any) -> dict[str, Tensor]:
    """Buffers that are not in the model's `state_dict()`: those that are not persistent, and all of the loss's."""
    saved = model.state_dict()
    found = {f"{name} of the model": tensor for name, tensor in model.named_buffers() if name not in saved}
    if isinstance(loss, nn.Module):
        found |= {f"{name} of the loss": tensor for name, tensor in loss.named_buffers()}
    return found


def _check_outputs(spec: Spec, data: Data, outputs: Any, targets: Tensor) -> None:
    if not isinstance(outputs, Tensor):
        raise HarnessError(f"{spec.path}: the model returns {type(outputs).__name__}; return one tensor.")
    if data.is_classification:
        if outputs.dim() != 2 or outputs.shape[1] != data.num_classes:
            shape = tuple(outputs.shape[1:])
            found = str(shape[0]) if len(shape) == 1 else f"shape {shape} of"
            raise HarnessError(
                f"{spec.path}: the model gives {found} outputs an image, but data() has {data.num_classes} classes."
            )
    elif outputs.shape != targets.shape:
        raise HarnessError(
            f"{spec.path}: the model gives outputs of shape {tuple(outputs.shape)}, "
            f"but data() has targets of shape {tuple(targets.shape)} for the same two examples."
        )


def _check_names(built: Built) -> None:
    for setting in ("objective", "monitor"):
        name = getattr(built.experiment, setting)
        if name not in built.metric_names:
            raise HarnessError(
                f"{built.spec.path}: {setting} '{name}' is not measured.{did_you_mean(name, built.metric_names)} "
                f"Measured are: {', '.join(built.metric_names)}."
            )
