"""`Experiment`: the class that a spec file subclasses. Settings, hyperparameters, methods."""

from __future__ import annotations

import ast
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from harness.errors import HarnessError, did_you_mean
from harness.search import Hyperparameter

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from harness.data import Data

    Loss = Callable[[Tensor, Tensor], Tensor]


class Experiment:
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

    epochs: int = 40
    batch_size: int = 64
    seed: int = 0
    objective: str = "val_accuracy"  # what the search improves
    objective_at: str = "best"  # a run's value: its "best" epoch's, or its "last" one's
    direction: str | None = None  # "maximize" or "minimize"; None: follows from the objective's name
    monitor: str = "val_loss"  # what a plateau scheduler watches
    scheduler_step: str = "epoch"  # or "batch"
    checkpoint_every: int = 2  # epochs
    keep: tuple[str, ...] | str = ("best", "last")  # or "all"
    precision: str = "auto"  # "float32", "tf32", "bfloat16", or what the device is fast at
    compile: bool = False  # the model by torch.compile: slow to start, then faster
    threads: int | None = None  # CPU threads a run; None: what suits the machine
    trials: int = 20
    sampler: str = "tpe"  # "random", or "grid": every combination of a stepped search space, once
    pruner: Any = None  # "median", "hyperband", or an Optuna pruner

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

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """An optimizer over the model's parameters."""
        raise TypeError("optimizer() is not written")

    def scheduler(self, optimizer: Optimizer) -> LRScheduler | None:
        """A learning-rate scheduler, stepped after each epoch with `monitor` where it asks for a metric."""
        return None

    def metrics(self) -> Mapping[str, Any] | None:
        """Measures by name, in addition to the loss, for the training and the validation part.

        Each is a function `(outputs, targets) -> Tensor`, a value per image `(N,)` or a mean over the
        batch, or an object with `update`, `compute` and `reset` as in torchmetrics. None means `accuracy`
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
                setattr(cls, name, Setting(name, value))
            elif name in _OWN:
                raise HarnessError(f"{name} is a name that Experiment uses itself; choose another one.")
            elif not name.startswith("_") and name not in _METHODS:
                _check_spelling(name, value)
        cls.hyperparameters = inherited

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The value of every setting and the default of every hyperparameter."""
        settings = {name: getattr(cls, name) for name in SETTINGS if name not in cls.hyperparameters}
        return settings | {name: found.default for name, found in cls.hyperparameters.items()}

    def values(self) -> dict[str, Any]:
        """All settings and hyperparameters of this instance, by name."""
        return dict(self._values)

    def params(self) -> dict[str, Any]:
        """The hyperparameters of this instance, by name."""
        return {name: self._values[name] for name in self.hyperparameters}

    def read(self, name: str) -> Any:
        """The value behind an attribute, noting that it was read."""
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


class Setting:
    """A class attribute whose reads on an instance are noted, like a hyperparameter's."""

    def __init__(self, name: str, value: Any) -> None:
        self.name, self.value = name, value

    def __get__(self, instance: Experiment | None, owner: type | None = None) -> Any:
        return self.value if instance is None else instance.read(self.name)


SETTINGS = (
    *("epochs", "batch_size", "seed", "objective", "objective_at", "direction", "monitor", "scheduler_step"),
    *("checkpoint_every", "keep", "precision", "compile", "threads", "trials", "sampler", "pruner"),
)
for _name in SETTINGS:
    setattr(Experiment, _name, Setting(_name, vars(Experiment)[_name]))

_METHODS = frozenset(name for name, value in vars(Experiment).items() if isinstance(value, types.FunctionType))
_OWN = frozenset(("values", "params", "read", "recording", "defaults", "hyperparameters"))
_POINTS_CHECKED = 64  # of the range of a searched setting
_COUNTS = ("epochs", "batch_size", "checkpoint_every", "trials", "threads")
_OPTIONS: dict[str, tuple[Any, ...]] = {
    "objective_at": ("best", "last"),
    "direction": (None, "maximize", "minimize"),
    "scheduler_step": ("epoch", "batch"),
    "precision": ("auto", "float32", "tf32", "bfloat16"),
    "compile": (False, True),
    "sampler": ("tpe", "random", "grid"),
}
_LOWER_IS_BETTER = ("loss", "error", "mae", "mse", "rmse", "perplexity", "entropy", "distance")


def direction_of(objective: str, direction: str | None = None) -> str:
    """`"minimize"` for losses and errors, `"maximize"` for every other metric, unless said otherwise.

    >>> direction_of("val_loss"), direction_of("val_accuracy")
    ('minimize', 'maximize')
    """
    if direction is not None:
        return direction
    return "minimize" if objective.rsplit("_", 1)[-1] in _LOWER_IS_BETTER else "maximize"


def check_setting(name: str, value: Any) -> None:
    """Raises `HarnessError` where a setting cannot have this value."""
    if name in _COUNTS and not (name == "threads" and value is None):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise HarnessError(f"{name} must be a whole number of at least 1, not {value!r}.")
    elif name == "seed" and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise HarnessError(f"seed must be a whole number of at least 0, not {value!r}.")
    elif name in _OPTIONS and value not in _OPTIONS[name]:
        options = ", ".join(repr(option) for option in _OPTIONS[name])
        hint = did_you_mean(str(value), [str(option) for option in _OPTIONS[name]])
        raise HarnessError(f"{name} must be one of {options}, not {value!r}.{hint}")
    elif name in ("objective", "monitor") and not isinstance(value, str):
        raise HarnessError(f"{name} must be the name of a metric, not {value!r}.")
    elif name == "keep" and value != "all" and not set(_as_names(value)) <= {"best", "last"}:
        raise HarnessError(f"keep must be 'all' or a tuple of 'best' and 'last', not {value!r}.")


def parse_setting(name: str, text: str, default: Any) -> Any:
    """The value of `--set NAME=TEXT` for a setting; raises `HarnessError` where it is none."""
    value: Any = text
    if not isinstance(default, str):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError):
            value = text
    try:
        check_setting(name, value)
    except HarnessError as error:
        raise HarnessError(f"--set {name}={text}: {error}") from None
    return value


def _as_names(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _check_hyperparameter(name: str, hyperparameter: Hyperparameter) -> None:
    try:
        hyperparameter.check()
        if name in _METHODS or name in _OWN:
            raise ValueError("a hyperparameter cannot have the name of a method of Experiment; choose another one")
        for point in hyperparameter.points(_POINTS_CHECKED) if name in SETTINGS else ():
            check_setting(name, point)
    except ValueError as error:
        raise HarnessError(f"{name}: {error}.") from None


def _check_spelling(name: str, value: object) -> None:
    """A function or value whose name is nearly one of ours was meant to be it."""
    is_method = isinstance(value, types.FunctionType)
    hint = did_you_mean(name, _METHODS if is_method else SETTINGS)
    if hint:
        kind = "method" if is_method else "setting"
        raise HarnessError(f"there is no {kind} '{name}'.{hint} (Start its name with _ if it is your own.)")
