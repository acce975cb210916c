"""Hyperparameters: what a spec declares as `lr: float = search.log_uniform(...)` and reads as a plain value.

Each function declares the type of the value and returns a descriptor, so that type checkers, editors and
the spec's own methods see a `float`, an `int` or one of the options, while the class keeps the range.
Nothing here imports Optuna: a hyperparameter asks the trial that it is given.
"""

import ast
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

from harness.errors import HarnessError, did_you_mean

T = TypeVar("T")


class Suggester(Protocol):
    """The part of `optuna.trial.Trial` that a hyperparameter uses."""

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, step: int) -> int: ...
    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Hyperparameter(ABC):
    """A searched value: its default, its range, and how to ask a trial for it."""

    default: Any

    def __set_name__(self, owner: type, name: str) -> None:
        object.__setattr__(self, "_name", name)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        return instance.read(self._name)  # type: ignore[attr-defined]

    @abstractmethod
    def check(self) -> None:
        """Raises `ValueError` with one clause if the declaration contradicts itself."""

    @abstractmethod
    def parse(self, text: str) -> Any:
        """The value of `--set NAME=text`; raises `ValueError` if the text is no value."""

    @abstractmethod
    def suggest(self, trial: Suggester, name: str) -> Any:
        """Asks a trial for a value; returns the real value, also if Optuna keeps it in another form."""

    @abstractmethod
    def points(self, most: int) -> list[Any]:
        """At most `most` values that span the range, in order; all values if there are no more."""

    @abstractmethod
    def grid(self) -> list[Any] | None:
        """All values, in order; None if the range is continuous."""

    @abstractmethod
    def place(self, value: Any) -> list[float]:
        """The coordinates of a value in the range, from 0 to 1; options without an order have one coordinate each."""

    def draw(self, share: float) -> Any:
        """The value at this share of the range, from 0 up to 1."""
        values = self.grid()
        assert values is not None
        return values[min(int(share * len(values)), len(values) - 1)]

    def recorded(self, value: Any) -> Any:
        """A value in the form that Optuna keeps."""
        return value

    @abstractmethod
    def describe(self) -> str:
        """The range in a few words, such as `log 0.001 to 0.1, 9 points`."""


@dataclass(frozen=True, kw_only=True)
class Uniform(Hyperparameter):
    low: float
    high: float
    step: float | None = None

    def check(self) -> None:
        _check_range(self.low, self.high, self.default)
        if self.step is None:
            return
        if not _is_number(self.step) or not self.step > 0 or self._steps() < 1:
            raise ValueError(f"step {self.step!r} does not fit between {self.low} and {self.high}")

    def parse(self, text: str) -> float:
        return _finite(text)

    def suggest(self, trial: Suggester, name: str) -> float:
        value = trial.suggest_float(name, self.low, self._last(), step=self.step, log=False)
        return value if self.step is None else _tidy(value)

    def points(self, most: int) -> list[float]:
        count = most if self.step is None else min(most, self._steps() + 1)
        return _spread(self.low, self._last(), count, self.step)

    def grid(self) -> list[float] | None:
        if self.step is None:
            return None
        return [_tidy(self.low + i * self.step) for i in range(self._steps() + 1)]

    def place(self, value: float) -> list[float]:
        return [_share(value, self.low, self._last())]

    def draw(self, share: float) -> float:
        return (
            float(super().draw(share)) if self.step is not None else _tidy(self.low + share * (self.high - self.low), 6)
        )

    def describe(self) -> str:
        return f"{self.low:g} to {self.high:g}" + (f", step {self.step:g}" if self.step else "")

    def _steps(self) -> int:
        assert self.step is not None
        return math.floor((self.high - self.low) / self.step + 1e-9)

    def _last(self) -> float:
        return self.high if self.step is None else _tidy(self.low + self._steps() * self.step)


@dataclass(frozen=True, kw_only=True)
class LogUniform(Hyperparameter):
    low: float
    high: float
    count: int | None = None

    def check(self) -> None:
        _check_range(self.low, self.high, self.default)
        if self.low <= 0:
            raise ValueError(f"low {self.low} must be above 0 on a log scale")
        if self.count is not None and (not _is_whole(self.count) or self.count < 2):
            raise ValueError(f"points={self.count!r} must be a whole number of at least 2")

    def parse(self, text: str) -> float:
        return _finite(text)

    def suggest(self, trial: Suggester, name: str) -> float:
        values = self.grid()
        if values is None:
            return trial.suggest_float(name, self.low, self.high, step=None, log=True)
        return self.snap(trial.suggest_float(name, values[0], values[-1], step=None, log=True))

    def snap(self, value: float) -> float:
        """The step that is nearest to a value."""
        return min(self.grid() or [value], key=lambda step: abs(math.log(step / value)))

    def points(self, most: int) -> list[float]:
        values = self.grid()
        if values is not None:
            return _thin(values, most)
        logs = _spread(math.log(self.low), math.log(self.high), most)
        return [_tidy(math.exp(value), 6) for value in logs]

    def grid(self) -> list[float] | None:
        """The steps of a stepped log scale. Optuna has no such scale: it gets a log range, and these values count."""
        if self.count is None:
            return None
        ratio = self.high / self.low
        return [_tidy(self.low * ratio ** (i / (self.count - 1)), 6) for i in range(self.count)]

    def place(self, value: float) -> list[float]:
        return [_share(math.log(value), math.log(self.low), math.log(self.high))]

    def draw(self, share: float) -> float:
        if self.count is not None:
            return float(super().draw(share))
        return min(max(_tidy(self.low * (self.high / self.low) ** share, 6), self.low), self.high)

    def describe(self) -> str:
        return f"log {self.low:g} to {self.high:g}" + (f", {self.count} points" if self.count else "")


@dataclass(frozen=True, kw_only=True)
class Integer(Hyperparameter):
    low: int
    high: int
    step: int = 1

    def check(self) -> None:
        for name in ("low", "high", "default", "step"):
            value = getattr(self, name)
            if not _is_whole(value):
                raise ValueError(f"{name} {value!r} is not an integer")
        _check_range(self.low, self.high, self.default)
        if self.step < 1:
            raise ValueError(f"step {self.step} must be at least 1")

    def parse(self, text: str) -> int:
        try:
            return int(text)
        except ValueError:
            raise ValueError(f"{text!r} is not an integer") from None

    def suggest(self, trial: Suggester, name: str) -> int:
        last = self.low + (self.high - self.low) // self.step * self.step
        return trial.suggest_int(name, self.low, last, step=self.step)

    def points(self, most: int) -> list[int]:
        return _thin(self.grid(), most)

    def grid(self) -> list[int]:
        return list(range(self.low, self.high + 1, self.step))

    def place(self, value: int) -> list[float]:
        return [_share(value, self.low, self.high)]

    def describe(self) -> str:
        return f"{self.low} to {self.high}" + (f", step {self.step}" if self.step > 1 else "")


@dataclass(frozen=True, kw_only=True)
class Choice(Hyperparameter):
    options: tuple[Any, ...]

    def check(self) -> None:
        if not self.options:
            raise ValueError("choice() needs at least one option")
        for option in self.options:
            if not _is_plain(option):
                raise ValueError(
                    f"option {option!r} is neither number, string, boolean, None nor a tuple of those; "
                    "offer its name, and look the object up in your method"
                )
        for number, option in enumerate(self.options):
            for other in self.options[:number]:
                if option == other:
                    raise ValueError(f"options {other!r} and {option!r} are equal: they cannot be told apart")
        if self.default not in self.options:
            raise ValueError(f"default {self.default!r} is not one of {self.describe()}")

    def parse(self, text: str) -> Any:
        for option in self.options:
            if text == str(option):
                return option
        value = _literal(text)
        if value in self.options:
            return self.options[self.options.index(value)]
        if all(_is_whole(option) for option in self.options) and _is_whole(value):
            return value  # a number that the search does not offer is still a number
        if any(isinstance(option, float) for option in self.options) and all(map(_is_number, self.options)):
            return _finite(text)
        hint = did_you_mean(text, [str(option) for option in self.options])
        raise ValueError(f"{text!r} is not one of {self.describe()}.{hint}")

    def suggest(self, trial: Suggester, name: str) -> Any:
        shown = [self.recorded(option) for option in self.options]
        return self.options[shown.index(trial.suggest_categorical(name, shown))]

    def recorded(self, value: Any) -> Any:
        return value if isinstance(value, _PLAIN) else repr(value)

    def points(self, most: int) -> list[Any]:
        return _thin(list(self.options), most)

    def grid(self) -> list[Any]:
        return list(self.options)

    def place(self, value: Any) -> list[float]:
        if all(map(_is_number, self.options)):
            return [_share(sorted(self.options).index(value), 0, len(self.options) - 1)]
        return [_APART * (option == value and type(option) is type(value)) for option in self.options]

    def describe(self) -> str:
        return ", ".join(str(option) for option in self.options)


def uniform(low: float, high: float, *, default: float, step: float | None = None) -> float:
    """A float between `low` and `high`, both included, on a grid of `step` if given.

    >>> class Sketch:
    ...     dropout: float = uniform(0.0, 0.5, default=0.1, step=0.1)
    >>> Sketch.dropout.describe()
    '0 to 0.5, step 0.1'
    """
    return cast(float, Uniform(low=low, high=high, default=default, step=step))


def log_uniform(low: float, high: float, *, default: float, points: int | None = None) -> float:
    """A float on a log scale between `low` and `high`; with `points`, one of so many evenly spaced values.

    >>> log_uniform(1e-3, 1e-1, points=5, default=1e-2).points(9)
    [0.001, 0.00316228, 0.01, 0.0316228, 0.1]
    """
    return cast(float, LogUniform(low=low, high=high, default=default, count=points))


def integer(low: int, high: int, *, default: int, step: int = 1) -> int:
    """An integer between `low` and `high`, both included."""
    return cast(int, Integer(low=low, high=high, default=default, step=step))


def choice(*options: T, default: T) -> T:
    """One of the options: numbers, strings, booleans, None, or tuples of those."""
    return cast(T, Choice(options=options, default=default))


_PLAIN = (str, int, float, bool, type(None))
_APART = 0.35  # so any two options without an order are half a range apart


def _check_range(low: float, high: float, default: float) -> None:
    for name, value in (("low", low), ("high", high), ("default", default)):
        if not _is_number(value) or not math.isfinite(value):
            raise ValueError(f"{name} {value!r} is not a finite number")
    if low > high:
        raise ValueError(f"low {low} is above high {high}")
    if not low <= default <= high:
        raise ValueError(f"default {default} is outside {low} to {high}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_plain(value: object) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, tuple) and all(map(_is_plain, value)))


def _finite(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a finite number")
    return value


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        return text


def _tidy(value: float, digits: int = 12) -> float:
    """Rounds away the noise of binary fractions: 0.30000000000000004 becomes 0.3."""
    return float(f"{value:.{digits}g}")


def _spread(low: float, high: float, count: int, step: float | None = None) -> list[float]:
    if count < 2 or low == high:
        return [low]
    values = [low + (high - low) * i / (count - 1) for i in range(count)]
    if step is not None:
        values = [low + round((value - low) / step) * step for value in values]
    return [_tidy(value) for value in values]


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


def _thin(values: list[T], most: int) -> list[T]:
    if len(values) <= most:
        return values
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)] if most > 1 else values[:1]


def parse_hyperparameter(name: str, hyperparameter: Hyperparameter, text: str) -> Any:
    """The value of `--set NAME=TEXT`; raises `HarnessError` naming the hyperparameter."""
    try:
        return hyperparameter.parse(text)
    except ValueError as error:
        raise HarnessError(f"--set {name}={text}: {error}") from None


def check_hyperparameter(name: str, hyperparameter: Hyperparameter, value: Any) -> Any:
    """The value for a Python object, read as if it was written; raises `HarnessError` naming the hyperparameter."""
    if isinstance(value, float) and value.is_integer() and isinstance(hyperparameter, Integer):
        value = int(value)  # as in a column of a DataFrame
    try:
        return hyperparameter.parse(value if isinstance(value, str) else repr(value))
    except ValueError as error:
        raise HarnessError(f"{name}={value!r}: {error}") from None
