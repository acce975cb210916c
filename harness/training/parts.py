"""What a run trains: the objects that a spec's methods made, by kind."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from harness.experiment import Experiment
from harness.training.attributes import Versions, note_versions
from harness.training.step import LossScaler


@dataclass(kw_only=True, eq=False)
class Parts:
    """The objects of one run, made by the spec's methods. `optimizer` and `scheduler` are what those returned."""

    experiment: Experiment
    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: Any
    scheduler: Any = None
    measures: dict[str, Any] = field(default_factory=dict)
    scaler: LossScaler | None = None  # with float16
    keeps_gradients: bool = False  # an epoch may end with gradients that the next epoch uses
    versions: Versions = field(default_factory=dict)  # versions of the attributes' tensors when they were built

    def __post_init__(self) -> None:
        self.versions = note_versions(self.experiment.attributes())

    @property
    def optimizers(self) -> dict[str, Optimizer]:
        """All optimizers, in order; a single one has the name ""."""
        return named(self.optimizer)

    @property
    def schedulers(self) -> dict[str, Any]:
        """All schedulers, in order; a single one has the name "", and None is left out."""
        return {name: found for name, found in named(self.scheduler).items() if found is not None}

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The parameter groups of all optimizers, in order."""
        return [group for optimizer in self.optimizers.values() for group in optimizer.param_groups]

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated."""
        return self.experiment.evaluation_model(self.model)

    def modules(self) -> Iterator[tuple[str, nn.Module]]:
        """The model, the loss if it is a module, and every module that the spec put on `self`."""
        yield "the model", self.model
        if isinstance(self.loss, nn.Module):
            yield "the loss", self.loss
        for name, value in self.experiment.attributes().items():
            if isinstance(value, nn.Module) and value is not self.model and value is not self.loss:
                yield f"self.{name}", value

    def learning_rates(self) -> dict[str, float]:
        """The learning rate of each group, as it is logged: `lr` is the first one's.

        The others are `lr_<name>` for optimizers in a dict, and `lr_1`, `lr_2`, ... for optimizers in a list and for
        further groups of one optimizer. A group that has a `name` gets `lr_<name>`.
        """
        rates: dict[str, float] = {}
        optimizers = self.optimizers
        for place, (name, optimizer) in enumerate(optimizers.items()):
            for number, group in enumerate(optimizer.param_groups):
                own = [name] if name and not name.isdecimal() else [str(place)] if len(optimizers) > 1 and place else []
                own += [str(group.get("name", number))] if number else []
                rate = float(group["lr"]) if "lr" in group else 0.0
                if not rates:
                    rates["lr"] = rate
                if own and (len(optimizers) > 1 or number):
                    rates["_".join(["lr", *own])] = rate
        return rates


def named(returned: Any) -> dict[str, Any]:
    """The objects that a method returned, by name: one object as "", a list as "0", "1", ..., a dict as it is.

    >>> named(None), named(["a", "b"]), named({"body": "c"})
    ({'': None}, {'0': 'a', '1': 'b'}, {'body': 'c'})
    """
    if isinstance(returned, Mapping):
        return {str(name): value for name, value in returned.items()}
    if isinstance(returned, list | tuple):
        return {str(number): value for number, value in enumerate(returned)}
    return {"": returned}


def like(returned: Any, values: Mapping[str, Any]) -> Any:
    """Values by name, in the form that a method returned: one, a list or a dict."""
    if isinstance(returned, Mapping):
        return dict(values)
    if isinstance(returned, list | tuple):
        return list(values.values())
    return values[""]


def by_name(returned: Any, values: Any) -> dict[str, Any]:
    """The opposite of `like`: values in the form that a method returned, by name."""
    return named(values) if isinstance(returned, Mapping | list | tuple) else {"": values}
