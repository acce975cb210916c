"""`Experiment`: mistakes are found when the class is defined, values are plain, reads are noted."""

from typing import Any

import pytest

from harness import Experiment, search
from harness.errors import HarnessError
from harness.experiment import direction_of
from harness.settings import SETTINGS, parse_setting


def define(**attributes: Any) -> type[Experiment]:
    return type("Sketch", (Experiment,), attributes)


@pytest.mark.parametrize(("attributes", "message"), [
    ({"batchsize": 128}, "there is no setting 'batchsize'. Did you mean 'batch_size'?"),
    ({"epoch": 3}, "Did you mean 'epochs'?"),
    ({"modell": lambda self: None}, "there is no method 'modell'. Did you mean 'model'?"),
    ({"optimiser": lambda self, parameters: None}, "Did you mean 'optimizer'?"),
    ({"begin_epoch": lambda self, epoch: None}, "`def begin_epoch(self, model, optimizer, epoch)`"),
    ({"step": lambda self, model, batch: None}, "`def step(self, model, loss, optimizer, inputs, targets)`"),
    ({"epochs": 0}, "epochs must be a whole number of at least 1, not 0."),
    ({"epochs": 2.5}, "epochs must be a whole number"),
    ({"batch_size": "64"}, "batch_size must be a whole number of at least 1, not '64'."),
    ({"batch_size": True}, "batch_size must be a whole number"),
    ({"seed": -1}, "seed must be a whole number of at least 0"),
    ({"threads": 0}, "threads must be a whole number of at least 1"),
    ({"objective_at": "first"}, "objective_at must be one of 'best', 'last', not 'first'."),
    ({"direction": "maximise"}, "Did you mean 'maximize'?"),
    ({"scheduler_step": "epochs"}, "Did you mean 'epoch'?"),
    ({"precision": "float8"}, "precision must be one of"),
    ({"sampler": "tpee"}, "Did you mean 'tpe'?"),
    ({"objective": None}, "objective must be the name of a metric"),
    ({"keep": ("first",)}, "keep must be 'all' or a tuple of 'best' and 'last', not ('first',)."),
    ({"lr": search.log_uniform(1e-1, 1e-2, default=1e-2)}, "lr: low 0.1 is above high 0.01."),
    ({"batch_size": search.choice(0, 64, default=64)}, "batch_size must be a whole number of at least 1, not 0."),
    ({"batch_size": search.choice(16, "many", 64, default=64)}, "not 'many'"),
    ({"batch_size": search.uniform(16, 64, default=64.0)}, "batch_size must be a whole number"),
    ({"model": search.choice("vgg", "mlp", default="mlp")}, "model: a hyperparameter cannot have the name of a method"),
    ({"params": lambda self: {}}, "params is a name that Experiment uses itself"),
])  # fmt: skip
def test_a_wrong_attribute_is_found_when_the_class_is_defined(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(HarnessError) as caught:
        define(**attributes)
    assert message in str(caught.value)


def test_names_of_the_users_own_are_left_alone() -> None:
    sketch = define(depth=3, _epoch=1, helper=lambda self: 2)()
    assert (sketch.depth, sketch._epoch, sketch.helper()) == (3, 1, 2)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("values", "message"), [
    ({"momentun": 0.9}, "Sketch has no hyperparameter or setting 'momentun'. Did you mean 'momentum'?"),
    ({"epochs": 0}, "epochs must be a whole number"),
])  # fmt: skip
def test_a_wrong_value_is_found_when_an_instance_is_made(values: dict[str, Any], message: str) -> None:
    sketch = define(momentum=search.uniform(0, 1, default=0.9))
    with pytest.raises(HarnessError) as caught:
        sketch(**values)
    assert message in str(caught.value)


def test_values_are_plain_on_an_instance_and_ranges_on_the_class() -> None:
    sketch = define(lr=search.log_uniform(1e-3, 1e-1, default=1e-2), epochs=5)
    assert (sketch().lr, sketch(lr=0.5).lr, sketch(epochs=7).epochs) == (0.01, 0.5, 7)  # type: ignore[attr-defined]
    assert sketch().params() == {"lr": 0.01}
    assert sketch(lr=0.5).values() == {name: getattr(sketch, name) for name in SETTINGS} | {"lr": 0.5}
    assert sketch.lr.describe() == "log 0.001 to 0.1"  # type: ignore[attr-defined]


def test_reads_are_noted_where_they_happen() -> None:
    sketch = define(
        lr=search.uniform(0, 1, default=0.5),
        width=search.integer(1, 9, default=3),
        patience=search.integer(1, 9, default=3),
        model=lambda self: (self.width, self.epochs),
    )()
    with sketch.recording() as outer:
        sketch.model()
        with sketch.recording() as inner:
            assert sketch.patience == 3  # type: ignore[attr-defined]
    assert outer == {"width", "epochs"}
    assert inner == {"patience"}
    assert sketch.lr == 0.5  # type: ignore[attr-defined]
    assert "lr" not in outer


def test_a_setting_can_be_searched() -> None:
    sketch = define(batch_size=search.choice(16, 32, default=32))
    assert (sketch().batch_size, sketch(batch_size=16).batch_size) == (32, 16)
    assert sketch.defaults()["batch_size"] == 32
    assert list(sketch.hyperparameters) == ["batch_size"]
    instance = sketch()
    with instance.recording() as reads:
        assert instance.batch_size == 32
    assert reads == {"batch_size"}


def test_a_subclass_inherits_and_overrides() -> None:
    parent = define(lr=search.uniform(0, 1, default=0.5), width=search.integer(1, 9, default=3), epochs=5)
    child = type("Child", (parent,), {"lr": 0.1, "batch_size": search.integer(1, 9, default=3), "epochs": 6})
    assert set(child.hyperparameters) == {"width", "batch_size"}
    assert (child().lr, child().width, child().epochs, child().batch_size) == (0.1, 3, 6, 3)
    grandchild = type("Grandchild", (child,), {"batch_size": 8})
    assert set(grandchild.hyperparameters) == {"width"}
    assert grandchild().batch_size == 8
    assert set(parent.hyperparameters) == {"lr", "width"}
    assert Experiment.hyperparameters == {}


@pytest.mark.parametrize(("name", "text", "value"), [
    ("epochs", "60", 60),
    ("objective", "val_loss", "val_loss"),
    ("keep", "('best',)", ("best",)),
    ("keep", "all", "all"),
    ("threads", "None", None),
    ("pruner", "median", "median"),
])  # fmt: skip
def test_set_parses_a_setting(name: str, text: str, value: Any) -> None:
    assert parse_setting(name, text, getattr(Experiment, name)) == value


@pytest.mark.parametrize(("name", "text"), [("epochs", "many"), ("epochs", "0"), ("keep", "{[]: 1}")])
def test_set_refuses_a_setting(name: str, text: str) -> None:
    with pytest.raises(HarnessError, match=rf"--set {name}="):
        parse_setting(name, text, getattr(Experiment, name))


def test_the_direction_follows_from_the_name_unless_it_is_given() -> None:
    assert direction_of("val_mean_absolute_error") == "minimize"
    assert direction_of("val_accuracy") == "maximize"
    assert direction_of("val_accuracy", "minimize") == "minimize"
