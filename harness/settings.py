"""Every setting of an experiment, in one place: its name, its default, its check, and who reads it.

To add a setting, add one line to `Settings` and one to the README's table.
"""

import ast
from collections.abc import Callable, Mapping
from typing import Any

from harness.errors import HarnessError, did_you_mean

Check = Callable[[Any], str | None]  # returns what the value must be, as a clause; None if the value is right


def count(value: Any) -> str | None:
    """Whole numbers from 1 on."""
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    return None if is_count else "a whole number of at least 1"


def whole(value: Any) -> str | None:
    """Whole numbers from 0 on."""
    is_whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return None if is_whole else "a whole number of at least 0"


def metric_name(value: Any) -> str | None:
    """The name of a metric."""
    return None if isinstance(value, str) else "the name of a metric"


def one_of(*options: Any) -> Check:
    """One of some values."""

    def check(value: Any) -> str | None:
        return None if value in options else f"one of {', '.join(map(repr, options))}"

    check.options = options  # type: ignore[attr-defined]
    return check


def none_or(check: Check) -> Check:
    """None, which means off or automatic, or a value that the other check takes."""
    return lambda value: None if value is None else check(value)


def kept_checkpoints(value: Any) -> str | None:
    """`"all"`, or names of checkpoints."""
    names = value if isinstance(value, tuple | list) else (value,)
    return None if value == "all" or set(names) <= {"best", "last"} else "'all' or a tuple of 'best' and 'last'"


def anything(value: Any) -> None:
    """Not checked here: the check needs a library, and is made where that is loaded."""


class Setting:
    """A class attribute with a default and a check. Reading it on an instance is noted, like a hyperparameter's."""

    def __init__(self, default: Any, check: Check, *, in_recipe: bool, starts_study: bool, in_run: bool) -> None:
        self.default, self.check = default, check
        self.in_recipe = in_recipe  # it is part of every recipe, whether or not a method reads it
        self.starts_study = starts_study  # a change of it starts a new study
        self.in_run = in_run  # it is needed to build a run; otherwise only the driver reads it

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self.default if instance is None else instance.read(self.name)

    def overridden(self, default: Any) -> "Setting":
        """The same setting with another default."""
        options = {"in_recipe": self.in_recipe, "starts_study": self.starts_study, "in_run": self.in_run}
        setting = Setting(default, self.check, **options)
        setting.name = self.name
        return setting


def setting(
    default: Any, check: Check, *, in_recipe: bool = False, starts_study: bool = True, in_run: bool = True
) -> Any:
    """Declares a setting; the attribute's annotation is its type."""
    return Setting(default, check, in_recipe=in_recipe, starts_study=starts_study, in_run=in_run)


class Settings:
    """The settings that every experiment has. A spec overrides one by a plain class attribute."""

    epochs: int = setting(40, count)
    batch_size: int = setting(64, count, in_recipe=True)
    epoch_steps: int | None = setting(None, none_or(count), in_recipe=True)  # None: a whole pass over the data
    early_stopping: int | None = setting(None, none_or(count))  # epochs without a better objective end a run
    seed: int = setting(0, whole, in_recipe=True)
    objective: str = setting("val_accuracy", metric_name)  # what the search improves
    objective_at: str = setting("best", one_of("best", "last"))  # a run's value: that of its best or last epoch
    direction: str | None = setting(None, one_of(None, "maximize", "minimize"))  # None: by the objective's name
    monitor: str = setting("val_loss", metric_name)  # what a plateau scheduler watches
    scheduler_step: str = setting("epoch", one_of("epoch", "batch"))
    checkpoint_every: int = setting(2, count, starts_study=False)  # epochs
    keep: tuple[str, ...] | str = setting(("best", "last"), kept_checkpoints, starts_study=False)
    precision: str = setting("auto", one_of("auto", "float32", "tf32", "bfloat16", "float16"), in_recipe=True)
    compile: bool = setting(False, one_of(False, True), in_recipe=True)  # the model by torch.compile
    threads: int | None = setting(None, none_or(count), in_recipe=True, starts_study=False)  # CPU threads a run
    trials: int = setting(20, count, starts_study=False, in_run=False)
    budget: int | None = setting(None, none_or(count), starts_study=False, in_run=False)  # epochs that a sweep trains
    sampler: str = setting("tree", one_of("tree", "tpe", "random", "grid"), in_run=False)
    pruner: Any = setting(None, anything, in_run=False)  # "median", "hyperband", or an Optuna pruner


SETTINGS: dict[str, Setting] = {name: found for name, found in vars(Settings).items() if isinstance(found, Setting)}
IN_EVERY_RECIPE = frozenset(name for name, found in SETTINGS.items() if found.in_recipe)


def check_setting(name: str, value: Any) -> None:
    """Raises `HarnessError` if a setting cannot have this value."""
    check = SETTINGS[name].check
    wanted = check(value)
    if wanted is not None:
        hint = did_you_mean(str(value), [str(option) for option in getattr(check, "options", ())])
        raise HarnessError(f"{name} must be {wanted}, not {value!r}.{hint}")


def parse_setting(name: str, text: str, default: Any) -> Any:
    """The value of `--set NAME=TEXT` for a setting; raises `HarnessError` if the text is no value of it."""
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


def of_a_run(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a run is built with: without the settings that only the driver reads."""
    return {name: value for name, value in values.items() if name not in SETTINGS or SETTINGS[name].in_run}


def of_a_study(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values whose change starts a new study. A pruner is an object: its options are compared elsewhere."""
    kept = {name: value for name, value in values.items() if name not in SETTINGS or SETTINGS[name].starts_study}
    return {name: value for name, value in kept.items() if name != "pruner"}
