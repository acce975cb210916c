"""Nothing is left on the CPU by build, data, augmentation, step, evaluation, metrics and states: on a pretended GPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pretended import GPU, pretended_gpu

from harness.spec import load_spec
from harness.training.build import Built, build
from harness.training.data_cache import DataCache
from harness.training.loop import evaluate
from harness.training.run import train_one
from harness.training.state import capture, capture_gradients, read_knobs, restore

SPEC = """
import torch
from torch import nn, optim
from torch._subclasses.fake_tensor import unset_fake_temporarily

from harness import Experiment
from harness.data import tensors
from harness.models import *


class Net(Experiment):
    batch_size = 8
    objective = "val_loss"
    precision = "{precision}"

    def data(self):
        with unset_fake_temporarily():
            inputs = torch.randint(0, 256, (36, 3, 32, 32), dtype=torch.uint8)
            classes = torch.arange(36) % 4
            return tensors(inputs, {targets}, validation=10, augment={augment})

    def model(self):
        with unset_fake_temporarily():
            return {model}

    def optimizer(self, parameters):
        return {optimizer}

    def scheduler(self, optimizer):
        return optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
{more}
"""
USUAL = {
    "precision": "auto", "targets": "classes", "augment": '("crop", "flip", "cutout")', "model": "vgg11(4, width=4)",
    "optimizer": "optim.SGD(parameters, lr=0.1, momentum=0.9)", "more": "",
}  # fmt: skip
MODELS = {
    **{name: f"{name}(4, width=4)" for name in ("vgg11", "vgg16")},
    "googlenet": "googlenet(4, width=8)",
    "mlp": "mlp(3 * 32 * 32, 4)",
    "lazy": "nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(4))",
}
OPTIMIZERS = "SGD Adam AdamW RMSprop Adagrad Adadelta Adamax RAdam ASGD Rprop Adafactor".split()
TARGETS = {
    "classes": ("classes", 4),
    "soft": ("torch.rand(36, 4).softmax(1)", 4),
    "labels": ("(torch.rand(36, 3) > 0.5).float()", 3),
    "numbers": ("torch.rand(36, 2)", 2),
    "one number": ("torch.rand(36)", 0),
}


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Builds a spec with these pieces."""

    def make(**pieces: str) -> Built:
        (tmp_path / "net.py").write_text(SPEC.format(**USUAL | pieces))
        return build(load_spec(tmp_path / "net.py"), {}, device=GPU, cache=DataCache())

    with pretended_gpu(monkeypatch):
        yield make


def drive(built: Built) -> None:
    """Two steps, the second one by graph, a validation, and a state that is put into fresh parts."""
    train_one(built, 0, after_step=lambda: None, steps=2)
    assert built.graph is not None and (built.graph.reason is None) == (built.graph._captured is not None)
    batches = built.data.batches(built.data.validation, batch_size=8, device=GPU)
    evaluate(built.parts, batches, device=GPU, precision=built.precision)
    capture_gradients(built.parts)
    read_knobs(built.parts.optimizers)
    state = capture(built.parts)
    built.renew()
    restore(built.parts, state)
    for tensor in [*built.model.parameters(), *built.model.buffers()]:
        assert tensor.device == GPU
    train_one(built, 1, after_step=lambda: None, steps=1)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_is_on_the_device_with_all_it_needs(make: Callable[..., Built], model: str) -> None:
    built = make(model=MODELS[model])
    drive(built)
    assert built.step == "CUDA graph"


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_keeps_its_state_on_the_device_and_gets_it_back(
    make: Callable[..., Built], optimizer: str
) -> None:
    rate = "" if optimizer in ("Adafactor",) else ", lr=0.1"
    built = make(model=MODELS["mlp"], optimizer=f"optim.{optimizer}(parameters{rate})")
    drive(built)
    held = built.parts.optimizer.state.values()
    assert held or optimizer == "SGD"
    for name, value in ((name, value) for state in held for name, value in state.items()):
        is_counter = name in ("step", "eta", "mu", "mu_product")  # of which some stay on the CPU, as torch has it
        assert not isinstance(value, torch.Tensor) or value.device == GPU or is_counter, name
    is_graph = optimizer in ("SGD", "Adam", "AdamW")
    assert built.step == "CUDA graph" if is_graph else f"the update of {optimizer}" in built.step


@pytest.mark.parametrize("targets", TARGETS)
def test_every_kind_of_target_is_measured_on_the_device(make: Callable[..., Built], targets: str) -> None:
    values, outputs = TARGETS[targets]
    model = f"mlp(3072, {outputs})" if outputs else "nn.Sequential(nn.Flatten(), nn.Linear(3072, 1), nn.Flatten(0))"
    loss = {"labels": "nn.BCEWithLogitsLoss()", "numbers": "nn.MSELoss()", "one number": "nn.MSELoss()"}.get(targets)
    more = "" if loss is None else f"\n    def loss(self):\n        return {loss}\n"
    built = make(targets=values, model=model, more=more)
    drive(built)
    assert list(built.parts.measures) == ["mean_absolute_error" if "number" in targets else "accuracy"]


@pytest.mark.parametrize("augment", [
    '("random_resized_crop", "color_jitter", "flip")', "()", "(lambda images: images.flip(3),)"
])  # fmt: skip
def test_every_augmentation_works_on_the_device(make: Callable[..., Built], augment: str) -> None:
    drive(make(augment=augment, model=MODELS["mlp"]))


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_every_precision_gives_outputs_in_float32(make: Callable[..., Built], precision: str) -> None:
    more = """
    def step(self, model, loss, optimizer, inputs, targets):
        value, outputs = super().step(model, loss, optimizer, inputs, targets)
        assert outputs.dtype == torch.float32 and outputs.device.type == "cuda"
        return value, outputs
"""
    drive(make(precision=precision, more=more))


LEFT_BEHIND = {
    "a tensor of the step": """
    def step(self, model, loss, optimizer, inputs, targets):
        return super().step(model, loss, optimizer, inputs + torch.ones(3, 1, 1), targets)
""",
    "a buffer that is none": """
    def loss(self):
        weights = torch.ones(4)
        return lambda outputs, targets: nn.functional.cross_entropy(outputs, targets, weight=weights)
""",
    "a tensor of a metric": """
    def metrics(self):
        offset = torch.zeros(8)
        return {"shifted": lambda outputs, targets: outputs.argmax(1)[:8] - targets[:8] + offset[: len(targets)]}
""",
}  # fmt: skip


@pytest.mark.parametrize("kind", LEFT_BEHIND)
def test_a_tensor_that_was_left_on_the_cpu_is_an_error(make: Callable[..., Built], kind: str) -> None:
    """The pretended GPU would see a mistake of ours, too."""
    with pytest.raises(Exception, match=r"same device|different devices"):
        drive(make(more=LEFT_BEHIND[kind], model=MODELS["mlp"]))


def test_tensors_and_modules_on_self_go_where_the_model_is(make: Callable[..., Built]) -> None:
    more = """
    def loss(self):
        with unset_fake_temporarily():
            self.weights, self.head = torch.ones(4), nn.Linear(4, 4)
        return lambda outputs, targets: nn.functional.cross_entropy(self.head(outputs), targets, weight=self.weights)
"""
    built = make(more=more, model=MODELS["mlp"])
    drive(built)
    assert built.experiment.weights.device == GPU and built.experiment.head.weight.device == GPU
