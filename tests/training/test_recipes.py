"""Every recipe of docs/recipes.md trains, goes on from a checkpoint to the same bits, and is rehearsed as exact."""

import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running import ROOT

PAGE = (ROOT / "docs" / "recipes.md").read_text()
BLOCKS = dict(re.findall(r"^## ([^\n]+)\n.*?```python\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL))
SPEC = """
import torch
import torchvision
from torch import nn, optim
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from harness import Experiment
from harness.data import shapes, tensors


def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10)
    )


class Base(Experiment):
    epochs = 4
    batch_size = 16

    def data(self):
        return shapes(train=80, validation=20, test=10, size=SIZE)

    def model(self):
        return network()

    def optimizer(self, parameters):
        return optim.SGD(parameters, lr=0.05, momentum=0.9)

"""


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step")
@pytest.mark.parametrize("name", BLOCKS)
def test_a_recipe_of_the_page_goes_on_as_if_it_had_not_been_interrupted(
    name: str, tmp_path: Path, walk: Callable[..., Any], assert_same: Callable[..., None]
) -> None:
    block = BLOCKS[name]
    epochs = "4" if "googlenet" not in block else "2"
    text = SPEC.replace("SIZE", "64" if "googlenet" in block else "32").replace("epochs = 4", f"epochs = {epochs}")
    path = tmp_path / "recipe.py"
    path.write_text(text.replace("class Base", "class Recipe") + textwrap.indent(block, "    "))
    whole = walk(path, "whole")
    written = set(re.findall(r"^def (\w+)", block, re.MULTILINE))
    assert written and written <= vars(type(whole.run.built.experiment)).keys()
    assert whole.run.built.proof.resumes and whole.run.built.proof.repeats, whole.run.built.proof.sentence()
    walk(path, "killed", run_id="killed", stop=int(epochs) // 2)
    again = walk(path, "killed", run_id="killed")
    assert again.reused[: int(epochs) // 2] == [True] * (int(epochs) // 2)
    assert_same(again, whole, "last")
    assert whole.metrics[-1]["train_loss"] < whole.metrics[0]["train_loss"] - 1e-3, "it learns"
