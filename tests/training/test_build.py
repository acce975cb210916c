"""What does not fit together is said before anything trains; any module that PyTorch takes is taken."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from harness.errors import HarnessError, UserCodeError
from harness.settings import IN_EVERY_RECIPE
from harness.training.build import Built
from harness.training.schedulers import Siblings, step_schedulers
from harness.training.state import capture, read_knobs, same_bits

Write, Make = Callable[..., Path], Callable[..., Built]

METHOD = "    def optimizer"
OPTIMIZER = "        return optim.SGD(parameters, lr=self.lr, momentum=0.9)"
PLATEAU = "lr_scheduler.ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience)"
LAST = "nn.Linear(16 * self.width, 2)"


@pytest.mark.parametrize(("change", "message"), [
    ((LAST, "nn.Linear(16 * self.width, 5)"), "the model gives 5 outputs an image, but data() has 2 classes."),
    ((LAST, "nn.Unflatten(1, (self.width, 16)), nn.Linear(16, 2)"), "shape (4, 2) of outputs"),
    ((LAST, "nn.Linear(7, 2)"), "training the first batches raised RuntimeError"),
    (("        return nn.Sequential(", "        return 3\n        return nn.Sequential("),
     "model() returns int; return an nn.Module."),
    (("        return tensors(", "        return 3\n        return tensors("), "data() returns int; return one of"),
    ((OPTIMIZER, "        return 3"), "optimizer() returns int, not an optimizer, nor a list"),
    ((PLATEAU, "[3]"), "scheduler() returns int; return a scheduler of torch.optim.lr_scheduler, a list or"),
    ((PLATEAU, "undefined"), "scheduler() raised NameError: name 'undefined' is not defined"),
    ((METHOD, "    def loss(self):\n        return nn.CrossEntropyLoss(reduction='none')\n\n" + METHOD),
     "the loss must be one number, a mean over the batch."),
    ((METHOD, "    def loss(self):\n        return nn.BCEWithLogitsLoss()\n\n" + METHOD),
     "training the first batches raised ValueError"),
    ((METHOD, "    def metrics(self):\n        return {'wrong': lambda outputs: 1}\n\n" + METHOD),
     "training the first batches raised TypeError"),
    (('objective = "val_loss"', 'objective = "val_acuracy"'),
     "objective 'val_acuracy' is not measured. Did you mean 'val_accuracy'?"),
    (('objective = "val_loss"', 'monitor = "loss"'), "monitor 'loss' is not measured."),
])  # fmt: skip
def test_what_does_not_fit_gets_one_clear_sentence(
    write: Write, make: Make, change: tuple[str, str], message: str
) -> None:
    path = write(change)
    with pytest.raises(HarnessError) as caught:
        make(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 2


def test_an_error_in_the_users_code_shows_the_users_frames(write: Write, make: Make) -> None:
    path = write((LAST, "nn.Linear(1 // 0, 2)"))
    with pytest.raises(UserCodeError) as caught:
        make(path)
    lines = caught.value.trace.splitlines()
    assert lines[1].startswith(f'  File "{path}"') and lines[-1].startswith("ZeroDivisionError")


def test_initial_weights_come_from_the_seed_alone(write: Write, make: Make) -> None:
    first = make(write())
    torch.rand(10)
    second, other = make(write()), make(write(), seed=1)
    assert same_bits(capture(first.parts), capture(second.parts))
    assert not same_bits(dict(first.model.state_dict()), dict(other.model.state_dict()))
    other.renew()
    with torch.no_grad():
        for parameter in first.model.parameters():
            parameter.fill_(3)
    first.renew()
    assert same_bits(capture(first.parts), capture(second.parts))


def test_looking_for_reads_leaves_the_model_as_it_was(write: Write, make: Make) -> None:
    built = make(write())
    batch_norm = built.model[1]  # type: ignore[index]
    assert batch_norm.num_batches_tracked == 0
    assert all(parameter.grad is None for parameter in built.model.parameters())
    assert built.model.training


def test_reads_of_the_scheduler_are_apart(write: Write, make: Make) -> None:
    built = make(write())
    assert built.reads - IN_EVERY_RECIPE == {"lr", "width"}
    assert built.scheduler_reads == {"patience", "factor"}


@pytest.mark.parametrize(("scheduler", "asks"), [
    ("ReduceLROnPlateau(optimizer)", True), ("StepLR(optimizer, 1)", False), ("LinearLR(optimizer)", False),
])  # fmt: skip
def test_a_scheduler_gets_the_monitored_metric_where_it_asks(scheduler: str, asks: bool) -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    made = eval(scheduler, vars(torch.optim.lr_scheduler), {"optimizer": optimizer})
    step_schedulers({"": made}, {"val_loss": 0.25, "train_loss": 9.0}, "val_loss")
    assert (getattr(made, "best", None) == 0.25) is asks
    assert made.last_epoch == 1


def test_siblings_leave_where_they_choose_another_learning_rate(write: Write, make: Make) -> None:
    """Patience 0 leaves after the first bad epoch, 1 after the second; the walker has 2, and leaves nobody alone."""
    built = make(write(), patience=2)
    siblings = Siblings(built)
    left = []
    for value in (1.0, 2.0, 2.0, 2.0, 2.0):
        step_schedulers(built.parts.schedulers, {"val_loss": value}, "val_loss")
        left.append(siblings.advance({"val_loss": value}, read_knobs(built.parts.optimizers)))
    assert left == [False, True, True, True, False], "the third time it is the other factor of patience 2"


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.parametrize("layer", ("nn.LazyLinear(2)", "nn.Sequential(nn.LazyLinear(4), nn.LazyLinear(2))"))
def test_a_lazy_layer_trains_and_resumes(
    write: Write, walk: Callable[..., Any], assert_same: Callable[..., None], layer: str
) -> None:
    spec = write((LAST, layer))
    walk(spec, run_id="killed", stop=3)
    assert_same(walk(spec, run_id="killed", budget_bytes=0), walk(spec, "another"))


def test_numbers_of_numpy_are_numbers(write: Write, walk: Callable[..., Any], assert_same: Callable[..., None]) -> None:
    spec = write(("lr=self.lr,", "lr=numpy.float32(self.lr),"), ("import torch\n", "import numpy\nimport torch\n"),
                 ("factor=self.factor", "factor=numpy.sqrt(self.factor)"))  # fmt: skip
    walk(spec, run_id="killed", stop=3)
    resumed = walk(spec, run_id="killed")
    assert sum(resumed.reused) == 3
    assert_same(resumed, walk(spec, "another"))


def test_a_regression_has_an_error_to_minimise(write: Write, walk: Callable[..., Any]) -> None:
    spec = write(
        ("return tensors(inputs, targets,", "return tensors(inputs, targets.float(),"),
        (LAST, "nn.Linear(16 * self.width, 1), nn.Flatten(0)"),
        (METHOD, "    def loss(self):\n        return nn.MSELoss()\n\n" + METHOD),
        ('objective = "val_loss"', 'objective = "val_mean_absolute_error"'),
    )
    run = walk(spec, lr=0.001)
    values = [metrics["val_mean_absolute_error"] for metrics in run.metrics]
    assert run.results[-1].best_value == min(values)


def test_a_model_that_does_not_fit_regression_targets_says_so(write: Write, make: Make) -> None:
    spec = write(
        ("return tensors(inputs, targets,", "return tensors(inputs, targets.float(),"),
        (METHOD, "    def loss(self):\n        return nn.MSELoss()\n\n" + METHOD),
        ('objective = "val_loss"', 'objective = "val_mean_absolute_error"'),
    )
    with pytest.raises(
        HarnessError, match=r"gives outputs of shape \(2,\) an example, but data\(\) has targets of shape \(\)"
    ):
        make(spec)
