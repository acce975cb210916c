"""`Experiment`: the class that a spec file subclasses. Settings, hyperparameters, methods."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from harness.errors import HarnessError, did_you_mean
from harness.search import Hyperparameter
from harness.settings import SETTINGS, Settings, check_setting

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from harness.data import Data

    Loss = Callable[[Tensor, Tensor], Tensor]
    Optimizers = Optimizer | list[Optimizer] | dict[str, Optimizer]
    Schedulers = LRScheduler | list[LRScheduler] | dict[str, LRScheduler] | None


class Experiment(Settings):
    """One experiment: what is trained, on what, how, and which values are searched.

    Subclass it in a file of its own, override settings by plain class attributes, declare hyperparameters
    with `harness.search`, and write `data`, `model` and `optimizer`. On an instance every setting and
    hyperparameter is a plain value. Misspelt names are found when the class is defined.

    >>> from harness import search
    >>> class Digits(Experiment):
    ...     epochs = 5
    ...     width: int = search.integer(16, 64, default=32)
    >>> Digits(width=48).width
    48
    """

    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {}

    def data(self) -> Data:
        """Training, validation and test part: see `harness.data`."""
        raise TypeError("data() is not written")

    def model(self) -> nn.Module:
        """A fresh network. Random initial weights come from `seed`, which is set before the call."""
        raise TypeError("model() is not written")

    def loss(self) -> Loss:
        """What the training minimises: `(outputs, targets) -> scalar`, a mean over the batch."""
        from torch import nn

        return nn.CrossEntropyLoss()

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizers:
        """An optimizer over the model's parameters; or a list or a dict of optimizers, which `step` then gets."""
        raise TypeError("optimizer() is not written")

    def scheduler(self, optimizer: Any) -> Schedulers:
        """A learning-rate scheduler (or a list or dict of them), stepped after each epoch.

        If its `step` takes a metric, it gets `monitor`. `optimizer` is what `optimizer()` returned.
        """
        return None

    def step(self, model: nn.Module, loss: Loss, optimizer: Any, inputs: Tensor, targets: Tensor) -> Any:
        """One training step on a batch; returns the loss and what the metrics are measured on.

        `inputs` are (B, ...) float32 and `targets` (B, ...), on the device. `model(inputs)` runs in the run's
        precision and returns float32. Return None in place of the outputs if no metric fits them: then only the
        loss of the training part is logged.
        """
        outputs = model(inputs)
        value = loss(outputs, targets)
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return value, outputs

    def begin_epoch(self, model: nn.Module, optimizer: Any, epoch: int) -> None:
        """Called before each epoch that is trained, also the first one after a resume.

        `epoch` is the number of epochs trained before: 0 at the first. Write it as a function of the epoch ("frozen
        while epoch < 5"), not as a change ("unfreeze now"): it is not called for a known epoch, since that is not
        trained again.
        """

    def predict(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """The outputs for a batch in validation, reload, `predict` and export."""
        outputs: Tensor = model(inputs)
        return outputs

    def evaluation_model(self, model: nn.Module) -> nn.Module:
        """The network that is validated, reloaded and exported: the trained one, or an average of its weights."""
        return model

    def metrics(self) -> Mapping[str, Any] | None:
        """Measures by name, in addition to the loss, for the training and the validation part.

        Each is a function `(outputs, targets) -> Tensor` that returns one value for each image, `(N,)`, or a mean
        over the batch; or an object with `update`, `compute` and `reset`, as in torchmetrics. None means `accuracy`
        for classes and `mean_absolute_error` for regression.
        """
        return None

    def __init__(self, **values: Any) -> None:
        unknown = set(values) - set(SETTINGS) - set(self.hyperparameters)
        if unknown:
            name = min(unknown)
            hint = did_you_mean(name, [*self.hyperparameters, *SETTINGS])
            raise HarnessError(f"{type(self).__name__} has no hyperparameter or setting '{name}'.{hint}")
        self._values = {**self.defaults(), **values}
        self._reads: set[str] = set()
        for name in SETTINGS:
            check_setting(name, self._values[name])

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        inherited = {**cls.hyperparameters}
        for name, value in list(vars(cls).items()):
            inherited.pop(name, None)
            if isinstance(value, Hyperparameter):
                _check_hyperparameter(name, value)
                inherited[name] = value
            elif name in SETTINGS:
                check_setting(name, value)
                setattr(cls, name, SETTINGS[name].overridden(value))
            elif name in _OWN:
                raise HarnessError(f"{name} is a name that Experiment uses itself; choose another one.")
            elif name.startswith("_"):
                continue
            elif name not in _METHODS:
                _check_spelling(name, value, cls)
            elif isinstance(value, types.FunctionType):
                _check_parameters(name, value)
        cls.hyperparameters = inherited

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The value of every setting and the default of every hyperparameter."""
        settings = {name: getattr(cls, name) for name in SETTINGS if name not in cls.hyperparameters}
        return settings | {name: found.default for name, found in cls.hyperparameters.items()}

    def values(self) -> dict[str, Any]:
        """All settings and hyperparameters of this instance, by name."""
        return dict(self._values)

    def attributes(self) -> dict[str, Any]:
        """What the spec put on `self`, by name."""
        return {name: value for name, value in vars(self).items() if name not in ("_values", "_reads")}

    def params(self) -> dict[str, Any]:
        """The hyperparameters of this instance, by name."""
        return {name: self._values[name] for name in self.hyperparameters}

    def read(self, name: str) -> Any:
        """The value of an attribute. Notes that it was read."""
        self._reads.add(name)
        return self._values[name]

    @contextmanager
    def recording(self) -> Iterator[set[str]]:
        """Collects the names of settings and hyperparameters that are read inside a `with` block."""
        before, self._reads = self._reads, set()
        try:
            yield self._reads
        finally:
            self._reads = before


_METHODS = frozenset(name for name, value in vars(Experiment).items() if isinstance(value, types.FunctionType))
_OWN = frozenset(("values", "attributes", "params", "read", "recording", "defaults", "hyperparameters"))
_POINTS_CHECKED = 64  # of the range of a searched setting
_LOWER_IS_BETTER = ("loss", "error", "mae", "mse", "rmse", "perplexity", "entropy", "distance")


def direction_of(objective: str, direction: str | None = None) -> str:
    """`"minimize"` for losses and errors, `"maximize"` for every other metric, unless `direction` is given.

    >>> direction_of("val_loss"), direction_of("val_accuracy")
    ('minimize', 'maximize')
    """
    if direction is not None:
        return direction
    return "minimize" if objective.rsplit("_", 1)[-1] in _LOWER_IS_BETTER else "maximize"


def _check_hyperparameter(name: str, hyperparameter: Hyperparameter) -> None:
    try:
        hyperparameter.check()
        if name in _METHODS or name in _OWN:
            raise ValueError("a hyperparameter cannot have the name of a method of Experiment; choose another one")
        for point in hyperparameter.points(_POINTS_CHECKED) if name in SETTINGS else ():
            check_setting(name, point)
    except ValueError as error:
        raise HarnessError(f"{name}: {error}.") from None


def _check_parameters(name: str, method: types.FunctionType) -> None:
    """Raises `HarnessError` if a method does not take what it is called with."""
    wanted = list(inspect.signature(getattr(Experiment, name)).parameters)
    try:
        inspect.signature(method).bind(*wanted)
    except TypeError:
        raise HarnessError(f"{name}() is called with other parameters: `def {name}({', '.join(wanted)})`.") from None


def _check_spelling(name: str, value: object, cls: type[Experiment]) -> None:
    """Finds misspelt names: a function or value whose name is nearly one of ours, unless the class itself uses it."""
    if _uses(cls, name):
        return
    if isinstance(value, types.FunctionType):
        kind, hint = "method", did_you_mean(name, _METHODS)
    else:
        kind, hint = "setting", did_you_mean(name, SETTINGS)
        hint = hint or (f" {_ELSEWHERE[name]}" if name in _ELSEWHERE else "")
    if hint:
        raise HarnessError(f"there is no {kind} '{name}'.{hint} (Start its name with _ if it is your own.)")


def _uses(cls: type[Experiment], name: str) -> bool:
    """Whether a method of the class reads an attribute of this name, of any object."""
    waiting = [value.__code__ for value in vars(cls).values() if isinstance(value, types.FunctionType)]
    while waiting:
        code = waiting.pop()
        if name in code.co_names:
            return True
        waiting += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return False


_ELSEWHERE = {  # settings of other libraries -> what to write here
    **dict.fromkeys(("n_epochs", "num_epochs", "max_epochs", "nepochs"), "Did you mean 'epochs'?"),
    **dict.fromkeys(("bs", "batch"), "Did you mean 'batch_size'?"),
    **dict.fromkeys(
        ("collate", "collate_fn", "sampler_fn"), "Give it to datasets(..., collate_fn=, sampler=) in data()."
    ),
    **dict.fromkeys(("num_workers", "workers"), "Give it to datasets(..., workers=) in data()."),
    **dict.fromkeys(("amp", "mixed_precision", "fp16", "bf16"), "Did you mean 'precision'?"),
    **dict.fromkeys(
        ("accumulate", "accumulation_steps", "gradient_accumulation_steps", "accumulate_grad_batches"),
        "Write step() with inputs.chunk(4): see docs/recipes.md.",
    ),
    **dict.fromkeys(
        ("clip", "clip_grad", "grad_clip", "max_grad_norm", "gradient_clip_val"),
        "Write step() with clip_grad_norm_: see docs/recipes.md.",
    ),
    **dict.fromkeys(("steps_per_epoch", "limit_train_batches"), "Did you mean 'epoch_steps'?"),
    "metric": "Did you mean 'objective'?",
    "n_trials": "Did you mean 'trials'?",
    "random_seed": "Did you mean 'seed'?",
    "early_stop_patience": "Did you mean 'early_stopping'?",
}
