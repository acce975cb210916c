"""The rehearsal proves what a run is relied on for, and names what is missing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from harness.errors import HarnessError
from harness.training.fingerprints import check_fingerprint, keep_fingerprints
from harness.training.parts import like, named
from harness.training.rehearsal import take_fingerprint
from harness.training.step import LossScaler, in_precision

OPTIMIZER = "        return optim.SGD(parameters, lr=self.lr, momentum=0.9)"
CLOSURE = """        parameters = list(parameters)
        slow = [p.detach().clone() for p in parameters]
        made = optim.SGD(parameters, lr=self.lr, momentum=0.9)

        def lookahead(*_):
            with torch.no_grad():
                for s, p in zip(slow, parameters):
                    s.lerp_(p, 0.5)
                    p.copy_(s)

        made.register_step_post_hook(lookahead)
        return made"""
COUNTER = """class Net(nn.Sequential):
    steps = 0

    def forward(self, inputs):
        self.steps += self.training
        return super().forward(inputs) * (1 + self.steps / 50)


class Spec(Experiment):"""
STEP = """    def step(self, model, loss, optimizer, inputs, targets):
        value, outputs = super().step(model, loss, optimizer, inputs, targets)
        {line}
        return value, outputs

    def optimizer"""
Make, Write = Callable[..., Any], Callable[..., Path]


def test_the_usual_spec_is_proven_exact(write: Write, make: Make) -> None:
    proof = make(write()).proof
    assert proof.repeats and proof.resumes and proof.shares and proof.private is None
    assert proof.sentence() == "rehearsed: repeats its bits, resumes exactly, shares its epochs"


def test_of_a_scheduler_that_steps_every_batch_it_says_which_trials_share_epochs(write: Write, make: Make) -> None:
    scheduler = "        return lr_scheduler.ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience)"
    by_batch = "        return lr_scheduler.CosineAnnealingLR(optimizer, 1000)"
    spec = write((scheduler, by_batch), ("batch_size = 20", 'batch_size = 20\n    scheduler_step = "batch"'))
    assert make(spec).proof.sentence() == (
        "rehearsed: repeats its bits, resumes exactly; the scheduler steps every batch, so only trials with equal "
        "values share epochs"
    )


def test_weights_kept_in_a_closure_are_named_and_the_run_begins_anew_to_the_same_bits(
    write: Write, walk: Any, assert_same: Any
) -> None:
    spec = write((OPTIMIZER, CLOSURE))
    whole = walk(spec, "whole")
    proof = whole.run.built.proof
    assert proof.repeats and not proof.resumes
    assert "slow in a hook of the optimizer" in proof.sentence() and "begins anew" in proof.sentence()
    walk(spec, run_id="killed", stop=3)
    assert_same(walk(spec, run_id="killed"), whole)


def test_a_counter_that_no_checkpoint_holds_is_named(write: Write, make: Make) -> None:
    spec = write(("class Net(Experiment):", COUNTER), ("        return nn.Sequential(", "        return Net("))
    proof = make(spec).proof
    assert not proof.resumes and "the attribute steps of the model" in proof.sentence()


def test_a_step_that_does_not_repeat_shares_nothing(write: Write, make: Make) -> None:
    line = "with torch.no_grad(): next(model.parameters()).add_(time.perf_counter() % 1e-3)"
    spec = write(("    def optimizer", STEP.format(line=line)), ("import torch\n", "import time\n\nimport torch\n"))
    proof = make(spec).proof
    assert not proof.repeats and proof.private is not None and "the same steps from scratch" in proof.sentence()


def test_what_the_spec_keeps_on_self_is_in_the_checkpoint_and_comes_back(
    write: Write, walk: Any, assert_same: Any
) -> None:
    line = "self.seen = getattr(self, 'seen', 0) + len(inputs); self.center = 0.9 * self.center + outputs.mean()"
    spec = write(
        ("    def optimizer", STEP.format(line=line).replace("outputs.mean()", "outputs.detach().mean(0)")),
        ("    def model(self):\n", "    def model(self):\n        self.center = torch.zeros(2)\n"),
    )
    whole = walk(spec, "whole")
    assert whole.checkpoint()["attributes"]["seen"] == 6 * 60
    assert whole.checkpoint()["attributes"]["center"].abs().sum() > 0
    walk(spec, run_id="killed", stop=3)
    again = walk(spec, run_id="killed")
    assert again.reused[:3] == [True] * 3
    assert_same(again, whole)
    assert torch.equal(again.checkpoint()["attributes"]["center"], whole.checkpoint()["attributes"]["center"])


def test_the_network_on_self_is_the_one_that_is_trained(write: Write, walk: Any, make: Make) -> None:
    spec = write(
        ("        return nn.Sequential(", "        self.net = nn.Sequential("),
        ("self.width, 2),\n        )", "self.width, 2),\n        )\n        return self.net"),
        ("optim.SGD(parameters,", "optim.SGD(self.net.parameters(),"),
    )
    before, after = make(spec).model.state_dict(), walk(spec).checkpoint()["state_dict"]
    assert not torch.equal(before["0.weight"], after["0.weight"])


def test_early_stopping_ends_a_run_that_does_not_get_better(write: Write, walk: Any) -> None:
    spec = write(("epochs = 6", "epochs = 30\n    early_stopping = 2"))
    run = walk(spec)
    assert len(run.results) < 30 and run.results[-1].epoch - run.results[-1].best_epoch == 2


def test_other_first_steps_are_another_generation(write: Write, make: Make, tmp_path: Path) -> None:
    built = make(write())
    fingerprint = built.proof.fingerprint
    assert take_fingerprint(built) == fingerprint
    first = check_fingerprint(tmp_path, "f", values={"lr": 1}, fingerprint=fingerprint, take=lambda _: "none")
    assert first.generation == 0 and first.kept is not None
    keep_fingerprints(tmp_path, first.kept)
    again = check_fingerprint(tmp_path, "f", values={"lr": 2}, fingerprint="x", take=lambda _: fingerprint)
    assert again.generation == 0 and again.note is None, "the steps were taken with the values of the first command"
    other = check_fingerprint(tmp_path, "f", values={"lr": 1}, fingerprint="changed", take=lambda _: "none")
    assert other.generation == 1 and other.note is not None and "not reused" in other.note


@pytest.mark.parametrize(("change", "message"), [
    ((OPTIMIZER, "        return [optim.SGD(parameters, lr=self.lr)]"), "write step() yourself"),
    ((OPTIMIZER, "        return optim.LBFGS(parameters)"), "needs a closure, so write step() yourself"),
    (("    def optimizer", STEP.format(line="return value")), "step() returns a tensor of shape (); return two values"),
    (("    epochs = 6", "    early_stop = 3\n    epochs = 6"), "Did you mean 'early_stopping'?"),
    (("    epochs = 6", "    collate_fn = None\n    epochs = 6"), "Give it to datasets(..., collate_fn="),
])  # fmt: skip
def test_a_refusal_names_the_remedy(write: Write, make: Make, change: tuple[str, str], message: str) -> None:
    no_scheduler = ("    def scheduler(self, optimizer):", "    def _scheduler(self, optimizer):")
    with pytest.raises(HarnessError) as caught:
        make(write(change, no_scheduler))
    assert message in str(caught.value) and caught.value.exit_code == 2


def test_gradients_in_float16_have_their_true_size_whatever_the_step_adds() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    inputs, targets = torch.randn(12, 8), torch.arange(12) % 3

    def gradients(precision: str, scaler: LossScaler | None) -> list[torch.Tensor]:
        model.zero_grad()
        with in_precision([model], torch.device("cpu"), precision, scaler):
            value = nn.functional.cross_entropy(model(inputs), targets)
            (value + 0.1 * sum(p.square().sum() for p in model.parameters())).backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    pairs = zip(gradients("float16", LossScaler()), gradients("float32", None), strict=True)
    for half, full in pairs:
        torch.testing.assert_close(half, full, rtol=2e-2, atol=2e-3)
    assert type(model) is nn.Sequential


def test_a_module_on_the_import_path_belongs_to_the_recipe(
    write: Write, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.training.recipe import recipe_of

    elsewhere = tmp_path / "elsewhere" / "layers"
    elsewhere.mkdir(parents=True)
    (elsewhere / "__init__.py").write_text("from torch import nn\n\n\ndef act():\n    return nn.ReLU()\n")
    monkeypatch.syspath_prepend(str(elsewhere.parent))
    spec = write(("import torch\n", "import layers\nimport torch\n"), ("nn.ReLU()", "layers.act()"))
    before = recipe_of(make(spec), run_id="")
    assert "layers/__init__.py" in before.code
    (elsewhere / "__init__.py").write_text("from torch import nn\n\n\ndef act():  # why\n    return nn.ReLU()\n")
    assert recipe_of(make(spec), run_id="").digest == before.digest, "a comment changes nothing"
    (elsewhere / "__init__.py").write_text("from torch import nn\n\n\ndef act():\n    return nn.Tanh()\n")
    assert recipe_of(make(spec), run_id="").digest != before.digest


def test_replaced_initial_weights_are_another_recipe(write: Write, make: Make, tmp_path: Path) -> None:
    from harness.training.recipe import recipe_of

    spec = write(
        ("        return nn.Sequential(", "        net = nn.Sequential("),
        ("nn.Linear(16 * self.width, 2),\n        )", "nn.Linear(16 * self.width, 2),\n        )\n"
         "        net[-1].bias.data = torch.load(Path(__file__).with_name('bias.pt'))\n        return net"),
        ("import torch\n", "from pathlib import Path\n\nimport torch\n"),
    )  # fmt: skip
    torch.save(torch.zeros(2), tmp_path / "bias.pt")
    before = recipe_of(make(spec), run_id="").digest
    assert recipe_of(make(spec), run_id="").digest == before
    torch.save(torch.ones(2), tmp_path / "bias.pt")
    assert recipe_of(make(spec), run_id="").digest != before


def test_several_objects_keep_the_shape_that_the_spec_gave_them() -> None:
    for returned in ("a", ["a", "b"], {"x": "a", "y": "b"}):
        assert like(returned, named(returned)) == returned


def test_a_scheduler_that_watches_a_metric_steps_after_epochs(write: Write, make: Make) -> None:
    with pytest.raises(HarnessError, match=r"a ReduceLROnPlateau steps after each epoch.*Leave out scheduler_step"):
        make(write(("    epochs = 6", '    epochs = 6\n    scheduler_step = "batch"')))
