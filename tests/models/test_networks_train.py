"""What the networks promise to the training loop."""

import pytest
import torch
from torch import nn

from harness.models import googlenet, vgg11


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(build, *, steps, precision=torch.float32):
    """A few SGD steps on one batch; the losses and the weights."""
    torch.manual_seed(0)
    model = build(width=4).to(memory_format=torch.channels_last)
    images = torch.randn(16, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    targets = torch.arange(16) % 10
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(steps):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
            outputs = model(images)
        assert outputs.dtype == precision
        loss = nn.functional.cross_entropy(outputs.float(), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, model.state_dict()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("build", [vgg11, googlenet])
def test_training_learns_and_repeats_bit_for_bit(build, precision):
    losses, state = train(build, steps=20, precision=precision)
    again, same = train(build, steps=20, precision=precision)
    assert losses == again
    assert all(torch.equal(state[name], same[name]) for name in state)
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("build", [vgg11, googlenet])
def test_channels_last_survives_the_whole_network(build):
    model = build(width=4).to(memory_format=torch.channels_last)
    layouts = []
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(
                lambda _, inputs, output: layouts.append(output.is_contiguous(memory_format=torch.channels_last))
            )
    model(torch.randn(2, 3, 32, 32).contiguous(memory_format=torch.channels_last))
    assert layouts and all(layouts)


@pytest.mark.parametrize("build", [vgg11, googlenet])
def test_no_convolution_has_a_bias_that_batch_norm_would_cancel(build):
    assert all(layer.bias is None for layer in build(width=4).modules() if isinstance(layer, nn.Conv2d))
