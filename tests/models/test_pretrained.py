from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torchvision import models

from harness.demo import demo
from harness.errors import HarnessError
from harness.models import pretrained


@pytest.mark.parametrize(("name", "head", "last"), [
    ("squeezenet1_1", "classifier.1", torch.nn.Conv2d), ("resnet18", "fc", torch.nn.Linear),
])  # fmt: skip
def test_weights_of_a_file_are_loaded_but_for_the_head(tmp_path: Path, name: str, head: str, last: type) -> None:
    trained = models.get_model(name, weights=None)
    wrapped = OrderedDict((f"module.{key}", value) for key, value in trained.state_dict().items())
    torch.save({"state_dict": wrapped, "epoch": 3}, tmp_path / "theirs.pth")
    network = pretrained(name, classes=7, weights=tmp_path / "theirs.pth").eval()
    own = network.state_dict()
    assert all(torch.equal(own[key], value) for key, value in trained.state_dict().items() if not key.startswith(head))
    assert isinstance(network.get_submodule(head), last)
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"no network 'resnet81'. Did you mean 'resnet18'"):
        pretrained("resnet81", classes=2)
    with pytest.raises(HarnessError, match="has no weights 'IMAGENET1K_V9'"):
        pretrained("resnet18", classes=2, weights="IMAGENET1K_V9")
    with pytest.raises(HarnessError, match=r"nowhere.pth does not exist"):
        pretrained("resnet18", classes=2, weights=str(tmp_path / "nowhere.pth"))
    torch.save(models.get_model("squeezenet1_1", weights=None).state_dict(), tmp_path / "other.pth")
    with pytest.raises(HarnessError, match=r"does not fit|another network"):
        pretrained("resnet18", classes=2, weights=tmp_path / "other.pth")


def test_a_demo_loads_nothing() -> None:
    with demo():
        assert pretrained("squeezenet1_1", classes=3).get_submodule("classifier.1").out_channels == 3
