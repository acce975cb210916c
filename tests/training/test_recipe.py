"""The recipe changes with all that changes an epoch, and with nothing else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.settings import IN_EVERY_RECIPE
from harness.spec import load_spec
from harness.training.build import Built
from harness.training.data_cache import DataCache
from harness.training.recipe import INITIAL, Recipe, code_digests, differences, recipe_of

Write, Make = Callable[..., Path], Callable[..., Built]


@pytest.fixture
def recipe(write: Write, make: Make) -> Callable[..., Recipe]:
    """The recipe of the small spec with pieces of its text replaced, and some values."""

    def recipe(*changes: tuple[str, str], is_demo: bool = False, **values: Any) -> Recipe:
        return recipe_of(make(write(*changes), is_demo=is_demo, **values), run_id="run")

    return recipe


HELPER = ("class Net(Experiment):", "import helper\n\n\nclass Net(Experiment):")
SAME = {
    "a comment": (("        return optim", "        # why\n        return optim"),),
    "a docstring": (
        ('"""Batch norm,', '"""Another:'),
        ("    def model(self):", '    def model(self):\n        "A net."'),
    ),
    "layout": (("momentum=0.9)", "\n            momentum=0.9,\n        )"),),
    "the scheduler": (("patience=self.patience)", "patience=9)"),),
    "a searched range": (("points=4, default=1e-1", "points=9, default=1e-2"),),
    "a new hyperparameter that nothing reads": (
        ("    width: int", "    depth: int = search.integer(1, 3, default=1)\n    width: int"),
    ),
    "a declared setting": (("epochs = 6", "epochs = 9"), ('objective = "val_loss"', 'monitor = "train_loss"')),
}
OTHER = {
    "the model": ((("nn.Dropout(0.3)", "nn.Dropout(0.4)"),), ["Net.model() changed"]),
    "the optimizer": ((("momentum=0.9", "momentum=0.8"),), ["Net.optimizer() changed"]),
    "a new method": ((("    def model", "    def loss(self):\n        return nn.NLLLoss()\n\n    def model"),),
                     ["Net.loss() is new"]),
    "an import": ((("from torch import nn, optim", "from torch import nn, optim, cuda"),), ["imports changed"]),
    "a base class": ((("class Net(Experiment):", "class Net(Experiment, Generic[T]):"),
                      ("import torch\n", "import torch\nfrom typing import Generic, TypeVar\nT = TypeVar('T')\n")),
                     ["imports changed", "constants is new", "Net changed"]),
}  # fmt: skip


@pytest.mark.parametrize("change", SAME)
def test_what_changes_no_epoch_changes_no_recipe(recipe: Callable[..., Recipe], change: str) -> None:
    before, after = recipe(lr=0.1), recipe(*SAME[change], lr=0.1)
    assert differences(before.parts(), after.parts()) == []
    assert after.digest == before.digest


@pytest.mark.parametrize("change", OTHER)
def test_what_changes_an_epoch_changes_the_recipe_and_is_named(recipe: Callable[..., Recipe], change: str) -> None:
    changes, named = OTHER[change]
    before, after = recipe(), recipe(*changes)
    assert after.digest != before.digest
    assert sorted(differences(before.parts(), after.parts())) == sorted(named)


def test_local_modules_belong_to_the_recipe(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    helper = tmp_path / "helper.py"
    helper.write_text("x = 1\n")
    before = recipe(HELPER)
    helper.write_text("# a comment\nx = 1\n")
    assert recipe(HELPER).digest == before.digest
    helper.write_text("x = 2\n")
    assert differences(before.parts(), recipe(HELPER).parts()) == ["helper.py changed"]


def test_data_seed_batch_size_and_versions_belong_to_the_recipe(recipe: Callable[..., Recipe]) -> None:
    before = recipe()
    device = {"device", "precision", "compile", "threads"}
    assert before.rest.keys() == {"data", "seed", "batch_size", "torch", "torchvision", "harness", INITIAL} | device
    assert [c for c in differences(before.parts(), recipe(seed=1).parts()) if INITIAL not in c] == [
        "seed: 0 before, 1 now"
    ]
    assert differences(before.parts(), recipe(batch_size=30).parts()) == ["batch_size: 20 before, 30 now"]
    assert differences(before.parts(), recipe(precision="bfloat16").parts()) == [
        "precision: float32 before, bfloat16 now"
    ]
    other = recipe(("manual_seed(1)", "manual_seed(2)"))
    changed = differences(before.parts(), other.parts())
    assert len(changed) == 2 and any(clause.startswith("data: tensors ") for clause in changed)


def test_values_are_those_read_outside_the_scheduler(recipe: Callable[..., Recipe]) -> None:
    assert recipe(lr=0.3).values == {"lr": "0.3", "width": "4"}
    assert recipe(lr=0.3, patience=1, factor=0.5).digest == recipe(lr=0.3).digest
    assert recipe(lr=0.3).base_digest == recipe(lr=0.1).base_digest


LAZY_MODEL = ("    def model(self):", '''    def model(self):
        experiment = self

        class Scaled(nn.Linear):
            def forward(self, inputs):
                return super().forward(inputs.flatten(1)) * experiment.PLACE

        return Scaled(36, 2)

    def old_net(self):''')  # fmt: skip


@pytest.mark.parametrize(("place", "wanted"), [
    ("scale", {"lr", "scale"}),
    ("scale if self.training else 1", {"lr", "scale"}),
    ("scale if not self.training else 1", {"lr", "scale"}),
])  # fmt: skip
def test_a_value_that_only_forward_reads_is_found(recipe: Callable[..., Recipe], place: str, wanted: set[str]) -> None:
    scale = ("    width: int", "    scale: float = search.uniform(0, 2, default=1.0)\n    width: int")
    model = (LAZY_MODEL[0], LAZY_MODEL[1].replace("experiment.PLACE", f"(experiment.{place})"))
    assert recipe(scale, model).values.keys() == wanted


def test_a_value_that_only_the_loss_or_a_measure_reads_is_found(recipe: Callable[..., Recipe]) -> None:
    lazy = ("    def optimizer", """    def loss(self):
        return lambda outputs, targets: nn.functional.cross_entropy(outputs, targets, label_smoothing=self.smooth)

    def metrics(self):
        return {"over": lambda outputs, targets: (outputs.amax(1) > self.limit).float()}

    def optimizer""")  # fmt: skip
    declared = ("    width: int", """    smooth: float = search.uniform(0, 0.2, default=0.1)
    limit: float = search.uniform(0, 2, default=1.0)
    width: int""")  # fmt: skip
    assert recipe(lazy, declared).values.keys() == {"lr", "width", "smooth", "limit"}


def test_data_that_is_not_built_again_still_counts_its_reads(write: Write, make: Make) -> None:
    spec = write(
        ("    width: int", "    share: int = search.choice(10, 30, default=30)\n    width: int"),
        ("validation=30", "validation=self.share"),
    )
    cache = DataCache()
    first, again, other = (make(spec, cache=cache, share=share) for share in (30, 30, 10))
    assert first.data is again.data and first.data is not other.data
    assert again.reads == first.reads
    assert again.reads - IN_EVERY_RECIPE == {"lr", "width", "share"}
    assert recipe_of(other, run_id="").rest["data"] != recipe_of(first, run_id="").rest["data"]


def test_demo_networks_are_another_recipe(recipe: Callable[..., Recipe]) -> None:
    """Data that needs no download is the same under `--demo`, and the networks are narrow."""
    assert recipe(is_demo=True).digest != recipe().digest


def test_the_scheduler_counts_where_it_is_asked_for(write: Write) -> None:
    before = code_digests(load_spec(write()), scheduler=True)
    after = code_digests(load_spec(write(("patience=self.patience)", "patience=9)"))), scheduler=True)
    assert {name for name in before if before[name] != after[name]} == {"Net.scheduler()"}


def test_a_private_recipe_says_that_its_scheduler_changed(recipe: Callable[..., Recipe]) -> None:
    by_batch = (("batch_size = 20", 'batch_size = 20\n    scheduler_step = "batch"'),
                ("lr_scheduler.ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience)",
                 "lr_scheduler.StepLR(optimizer, 2, gamma=self.factor)"))  # fmt: skip
    before, after = recipe(*by_batch), recipe(*by_batch, factor=0.5)
    assert before.digest != after.digest
    assert differences(before.parts(), after.parts()) == ["scheduler(), or a value that it reads, changed"]


def test_long_values_are_not_printed() -> None:
    before = {"code": {"old()": "1"}, "values": {"shape": "x" * 90}, "rest": {"seed": "0"}, "private": None}
    after = {"code": {}, "values": {}, "rest": {"seed": "0", "threads": "2"}, "private": None}
    assert differences(before, after) == ["old() is gone", "shape changed", "threads: nothing before, 2 now"]
