"""Builds what a run needs from an experiment, and finds out on the way which values fix an epoch."""

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from harness.data import Data
from harness.demo import demo
from harness.errors import HarnessError, did_you_mean
from harness.experiment import Experiment, direction_of
from harness.spec import Spec
from harness.training.attributes import tensors_in
from harness.training.data_cache import DataCache
from harness.training.device import choose_precision, seed_all, set_products
from harness.training.fused import fuse
from harness.training.graph import StepGraph, has_graphs
from harness.training.measures import default_measures
from harness.training.parts import Parts, named
from harness.training.results import Proof
from harness.training.schedulers import bare_groups, check_schedulers
from harness.training.step import LossScaler
from harness.training.user_code import calling


@dataclass(kw_only=True, eq=False)
class Built:
    """Everything that trains. `parts` are the objects of the moment: `renew` replaces them by fresh ones."""

    spec: Spec
    values: dict[str, Any]
    device: torch.device
    precision: str
    cache: DataCache
    is_demo: bool
    proof: Proof  # of the rehearsal
    data: Data = field(init=False)
    parts: Parts = field(init=False)
    reads: set[str] = field(default_factory=set)
    model_reads: set[str] = field(default_factory=set)  # those of model()
    scheduler_reads: set[str] = field(default_factory=set)
    bare_groups: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    graph: StepGraph | None = None  # on CUDA

    @property
    def experiment(self) -> Experiment:
        """The instance of the spec whose methods made the parts."""
        return self.parts.experiment

    @property
    def model(self) -> nn.Module:
        """The network that is trained."""
        return self.parts.model

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
        names = ["loss", *self.parts.measures]
        trained = names if self.proof.has_outputs else names[:1]
        return [*(f"train_{name}" for name in trained), *(f"val_{name}" for name in names)]

    def renew(self) -> None:
        """Builds all parts afresh, as they are before the first epoch."""
        with demo(self.is_demo):
            self._build()

    def _build(self) -> None:
        spec, device = self.spec, self.device
        self.graph = None  # its memory goes before another one takes as much
        experiment = spec.build(self.values)
        with experiment.recording() as reads:
            self.data = self.cache.get(spec, experiment, device, is_demo=self.is_demo)
            with experiment.recording() as self.model_reads:
                model = self._build_model(experiment)
            with calling(spec, "loss()"):
                loss = experiment.loss()
            if isinstance(loss, nn.Module):
                loss.to(device)
            _move_attributes(experiment, device)
            optimizer = self._build_optimizer(experiment, model)
            with calling(spec, "metrics()"):
                own = experiment.metrics()
            measures = dict(default_measures(self.data, loss) if own is None else own)
            measures = {name: m.to(device) if isinstance(m, nn.Module) else m for name, m in measures.items()}
            set_products(self.precision)
            if self.values_of(experiment, "compile"):
                torch.use_deterministic_algorithms(True, warn_only=True)  # the compiler's own choices too
                model.compile()
        self.reads |= reads | self.model_reads
        self.parts = Parts(
            experiment=experiment,
            model=model,
            loss=loss,
            optimizer=optimizer,
            measures=measures,
            scaler=LossScaler() if self.precision == "float16" else None,
            keeps_gradients=self.proof.keeps_gradients,
        )
        self.bare_groups = bare_groups(self.parts.optimizers)
        with experiment.recording() as scheduler_reads, calling(spec, "scheduler()"):
            self.parts.scheduler = experiment.scheduler(optimizer)
        check_schedulers(spec, self.parts.scheduler)
        self.scheduler_reads |= scheduler_reads
        if has_graphs(device):
            self.graph = StepGraph(
                self.parts, self.data, device=device, precision=self.precision,
                batch_size=self.values_of(experiment, "batch_size"),
                epoch_steps=self.values_of(experiment, "epoch_steps"), reason=self.proof.no_graph,
            )  # fmt: skip

    @staticmethod
    def values_of(experiment: Experiment, name: str) -> Any:
        """A setting's value, without noting that it was read."""
        return experiment.values()[name]

    def _build_model(self, experiment: Experiment) -> nn.Module:
        """The network with its initial weights; lazy layers have seen two images."""
        spec, device, data = self.spec, self.device, self.data
        seed_all(self.values_of(experiment, "seed"), "model")
        with calling(spec, "model()"):
            model = experiment.model()
        if not isinstance(model, nn.Module):
            raise HarnessError(f"{spec.path}: model() returns {type(model).__name__}; return an nn.Module.")
        if self.proof.keeps_network:
            with calling(spec, "a copy of the model"):
                model = _copy_kept(experiment, model)
        model.to(device)
        if any(is_lazy(tensor) for tensor in itertools.chain(model.parameters(), model.buffers())):
            inputs, _ = next(iter(data.batches(data.train, batch_size=2, device=device)))
            with calling(spec, "the model"), torch.no_grad():
                model.eval()(inputs)
            model.train()
        return model.to(memory_format=torch.channels_last)

    def _build_optimizer(self, experiment: Experiment, model: nn.Module) -> Any:
        with calling(self.spec, "optimizer()"):
            returned = experiment.optimizer(model.parameters())
        for optimizer in named(returned).values():
            if not isinstance(optimizer, Optimizer):
                raise HarnessError(
                    f"{self.spec.path}: optimizer() returns {type(optimizer).__name__}, not an optimizer, nor a list "
                    "or dict of optimizers."
                )
            fuse(optimizer, model, self.device)
            if isinstance(optimizer, torch.optim.LBFGS):  # it takes gradients for dense vectors, in the usual order
                model.to(memory_format=torch.contiguous_format)
        return returned


def build(
    spec: Spec,
    values: Mapping[str, Any],
    *,
    device: torch.device,
    cache: DataCache,
    is_demo: bool = False,
    proof: Proof | None = None,
) -> Built:
    """Builds an experiment with these values; raises `HarnessError` where its parts do not fit together."""
    experiment = spec.build(values)
    built = Built(
        spec=spec,
        values=dict(values),
        device=device,
        precision=choose_precision(Built.values_of(experiment, "precision"), device),
        cache=cache,
        is_demo=is_demo,
        proof=proof or Proof(),
    )
    built.reads |= built.proof.reads
    built.renew()
    check_names(built)
    return built


def shares_network(one: Parts, other: Parts) -> bool:
    """Whether two builds gave the same weights, as memory: a network that the spec keeps between trials."""
    return bool({id(t) for t in tensors_in(one.model)} & {id(t) for t in tensors_in(other.model)})


def check_names(built: Built) -> None:
    """Raises `HarnessError` where the objective or the monitored metric is not measured."""
    for setting in ("objective", "monitor"):
        name = Built.values_of(built.experiment, setting)
        if name not in built.metric_names:
            raise HarnessError(
                f"{built.spec.path}: {setting} '{name}' is not measured.{did_you_mean(name, built.metric_names)} "
                f"Measured are: {', '.join(built.metric_names)}."
            )


def _copy_kept(experiment: Experiment, model: nn.Module) -> nn.Module:
    """A copy of a network that the spec keeps between trials, and of the modules on `self` that hold parts of it."""
    modules = {name: value for name, value in experiment.attributes().items() if isinstance(value, nn.Module)}
    modules, model = copy.deepcopy((modules, model))
    for name, value in modules.items():
        setattr(experiment, name, value)
    return model


def _move_attributes(experiment: Experiment, device: torch.device) -> None:
    """Modules and tensors that `model()` and `loss()` put on `self` live where the model does."""
    for name, value in experiment.attributes().items():
        if isinstance(value, nn.Module):
            value.to(device)
        elif isinstance(value, torch.Tensor) and value.device != device:
            setattr(experiment, name, value.to(device))
