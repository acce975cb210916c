"""No layer of the networks and of the examples has a backward pass that CUDA computes in an order of its own."""

from pathlib import Path

import pytest
import torch
from running import ROOT
from torch import Tensor, nn

from harness.models import googlenet, mlp, vgg16
from harness.spec import load_spec
from harness.training.build import DataCache, build

# What CUDA computes in a fixed order, by torch's kernels: convolutions and products with cuDNN and cuBLAS set to be
# deterministic; each input pixel of a 2d max-pool adds up its windows by itself, whatever the overlap and the memory
# format; `AdaptiveAvgPool2d(1)` is a mean. Not so, for example: AdaptiveMaxPool2DBackward0 and
# AdaptiveAvgPool2DBackward0, which add with atomics where windows overlap.
REPEATS = set(
    "AccumulateGrad AddmmBackward0 AsStridedBackward1 CatBackward0 ConvolutionBackward0 GeluBackward0 MmBackward0 "
    "MaxPool2DWithIndicesBackward0 MeanBackward1 MulBackward0 NativeBatchNormBackward0 NativeDropoutBackward0 "
    "ReluBackward0 TBackward0 UnsafeViewBackward0 ViewBackward0".split()
)
OWN = [path for path in sorted((ROOT / "experiments").glob("*.py")) if "harness.models" not in path.read_text()]


def operations(outputs: Tensor) -> set[str]:
    """The names of all operations that a backward pass from here has."""
    found, seen, waiting = set(), set(), [outputs.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        found.add(node.name().rpartition("::")[2])
        waiting += [after for after, _ in node.next_functions]
    return found


def images(model: nn.Module, channels: int = 3) -> Tensor:
    model.to(memory_format=torch.channels_last)
    return torch.randn(2, channels, 32, 32).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("make", [vgg16, googlenet])
def test_a_network_has_no_backward_pass_that_differs_from_time_to_time(make):
    model = make(width=4, dropout=0.1)
    assert operations(model(images(model))) <= REPEATS


def test_a_perceptron_has_none_either():
    assert operations(mlp(inputs=12, classes=3, dropout=0.1)(torch.randn(2, 12))) <= REPEATS


def test_the_network_of_the_fine_tuning_example_has_none_either():
    from torchvision.models import resnet18

    model = resnet18()
    assert operations(model(images(model))) <= REPEATS | {"AddBackward0"}


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_an_example_with_layers_of_its_own_has_none_either(path: Path):
    spec = load_spec(path)
    built = build(spec, spec.experiment.defaults(), device=torch.device("cpu"), cache=DataCache(), is_demo=True)
    inputs, _ = next(iter(built.data.batches(built.data.train, batch_size=2, device=built.device)))
    assert operations(built.model.train()(inputs)) <= REPEATS


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_last_pool_of_the_speedrun_gives_the_bits_of_an_adaptive_one(precision):
    torch.manual_seed(0)
    values = (
        torch.randint(-3, 4, (8, 16, 3, 3)).to(precision).contiguous(memory_format=torch.channels_last)
    )  # many ties
    given = torch.randn(8, 16, 1, 1).to(precision)
    found = []
    for pool in (nn.MaxPool2d(3), nn.AdaptiveMaxPool2d(1)):
        inputs = values.clone().requires_grad_()
        outputs = pool(inputs)
        outputs.backward(given)
        found.append((outputs, inputs.grad))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))
