"""Learning-rate schedulers: stepped by epoch or batch, tried before training, and those of a run's siblings."""

import copy
import inspect
import itertools
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from harness.errors import HarnessError
from harness.spec import Spec
from harness.training.parts import like, named
from harness.training.state import OF_SCHEDULERS, Knobs, read_knobs, set_knobs
from harness.training.user_code import calling

if TYPE_CHECKING:
    from harness.training.build import Built

MOST_SIBLINGS = 512
MOST_TRIED_STEPS = 200_000  # of a scheduler that steps every batch


def check_schedulers(spec: Spec, returned: Any) -> None:
    """Raises `HarnessError` if `scheduler()` returned something other than schedulers."""
    for scheduler in named(returned).values():
        if scheduler is not None and not isinstance(scheduler, LRScheduler):
            raise HarnessError(
                f"{spec.path}: scheduler() returns {type(scheduler).__name__}; return a scheduler of "
                "torch.optim.lr_scheduler, a list or dict of them, or None."
            )


def step_schedulers(schedulers: Mapping[str, Any], metrics: Mapping[str, float], monitor: str) -> None:
    """Steps schedulers after an epoch, with the monitored metric if they ask for one."""
    with _quiet():
        for scheduler in schedulers.values():
            if asks_for_metric(scheduler):
                scheduler.step(metrics[monitor])
            else:
                scheduler.step()


def asks_for_metric(scheduler: Any) -> bool:
    """Whether `step` of a scheduler needs a metric, as that of ReduceLROnPlateau does."""
    parameters = inspect.signature(scheduler.step).parameters.values()
    return any(
        parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        for parameter in parameters
    )


def try_batch_schedulers(built: "Built") -> None:
    """Steps schedulers of batches through a whole run, without a model; raises `HarnessError` if one ends too early."""
    experiment = built.experiment
    batches = built.data.steps(experiment.batch_size, epoch_steps=experiment.epoch_steps)
    schedulers = named(_scheduler_over_shadows(built, experiment)[1])
    for scheduler in schedulers.values():
        if scheduler is not None and asks_for_metric(scheduler):
            raise HarnessError(
                f"{built.spec.path}: a {type(scheduler).__name__} steps after each epoch, because it watches a metric "
                'of the epoch. Leave out scheduler_step = "batch".'
            )
    for number in range(1, min(batches * experiment.epochs, MOST_TRIED_STEPS) + 1):
        for scheduler in schedulers.values():
            if scheduler is None:
                continue
            try:
                with _quiet():
                    scheduler.step()
            except ValueError as error:
                raise HarnessError(
                    f"{built.spec.path}: the scheduler {type(scheduler).__name__} ends after {number - 1} steps, and "
                    f"{experiment.epochs} epochs of {batches} batches are {batches * experiment.epochs}. "
                    f"Give it total_steps={batches} * self.epochs. ({error})"
                ) from None


class Siblings:
    """The other runs of the search space that are still on this run's path.

    They differ from it in hyperparameters that only `scheduler()` reads. If one of them would leave the path after an
    epoch, the state there is kept: that sibling would start to train from it. Their schedulers work on optimizers
    without weights, so that they change nothing of this run.
    """

    def __init__(self, built: "Built") -> None:
        searched = built.experiment.hyperparameters
        names = sorted((built.scheduler_reads - built.reads) & set(searched))
        most = MOST_SIBLINGS if not names else max(2, round(MOST_SIBLINGS ** (1 / len(names))))
        grid = itertools.product(*(searched[name].points(most) for name in names)) if names else ()
        self._monitor = built.values_of(built.experiment, "monitor")
        self._alive: list[tuple[dict[str, Any], dict[str, Optimizer], dict[str, Any]]] = []
        self._left: list[tuple[dict[str, Any], int]] = []
        self._epochs = 0
        if built.values_of(built.experiment, "scheduler_step") == "batch":
            return
        for point in itertools.islice(grid, MOST_SIBLINGS):
            values = dict(zip(names, point, strict=True))
            sibling = built.spec.build(built.experiment.values() | values)
            for name, value in built.experiment.attributes().items():
                setattr(sibling, name, value)
            with calling(built.spec, f"scheduler() with {values}"):
                optimizers, schedulers = _scheduler_over_shadows(built, sibling)
            stepped = {n: s for n, s in named(schedulers).items() if s is not None}
            self._alive.append((values, named(optimizers), stepped))

    def advance(self, metrics: Mapping[str, float], knobs: Knobs, *, knobs_after: Knobs | None = None) -> bool:
        """Steps every sibling; True if one chose other options than `knobs`, and so leaves the path.

        `knobs_after` are the options after the epoch, if the epoch itself changed them.
        """
        self._epochs += 1
        stay = []
        for values, optimizers, schedulers in self._alive:
            if knobs_after is not None:
                set_knobs(optimizers, knobs_after)
            step_schedulers(schedulers, metrics, self._monitor)
            if read_knobs(optimizers) == knobs:
                stay.append((values, optimizers, schedulers))
            else:
                self._left.append((values, self._epochs))
        leaves = len(stay) < len(self._alive)
        self._alive = stay
        return leaves

    def shared(self) -> list[tuple[dict[str, Any], int]]:
        """The values of each sibling, and how many epochs it has in common with this run."""
        return [*self._left, *((values, self._epochs) for values, _, _ in self._alive)]


def _scheduler_over_shadows(built: "Built", experiment: Any) -> tuple[Any, Any]:
    """Schedulers, and optimizers for them: like the run's, but without weights and with their first options."""
    shadows = {name: _shadow(optimizer, built.bare_groups[name]) for name, optimizer in built.parts.optimizers.items()}
    returned = like(built.parts.optimizer, shadows)
    return returned, experiment.scheduler(returned)


def bare_groups(optimizers: Mapping[str, Optimizer]) -> dict[str, list[dict[str, Any]]]:
    """The groups of each optimizer, before a scheduler has changed them."""
    return {
        name: [{key: copy.copy(value) for key, value in group.items()} for group in optimizer.param_groups]
        for name, optimizer in optimizers.items()
    }


def _shadow(optimizer: Optimizer, groups: list[dict[str, Any]]) -> Optimizer:
    twin: Optimizer = object.__new__(type(optimizer))
    for name, value in vars(optimizer).items():
        is_hooks = isinstance(value, OrderedDict) and name.startswith("_optimizer_")
        if name not in ("step", "state", "param_groups", "_opt_called"):
            vars(twin)[name] = OrderedDict() if is_hooks else value
    twin.state = defaultdict(dict)
    twin.param_groups = [
        {key: _copied(value) for key, value in group.items() if key not in OF_SCHEDULERS}
        | {"params": _weightless(group)}
        for group in groups
    ]
    return twin


def _weightless(group: Mapping[str, Any]) -> list[nn.Parameter]:
    return [nn.Parameter(torch.empty(p.shape, device="meta"), requires_grad=p.requires_grad) for p in group["params"]]


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # Torch warns if a scheduler steps before its optimizer does, but known epochs have no steps.
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        yield
