import math

import pytest
import torch
from torch import nn

from harness.demo import demo
from harness.errors import HarnessError
from harness.models import vgg11, vgg13, vgg16, vgg19

# Output channels of the convolutions in table 1 of Simonyan and Zisserman (2014).
PAPER = {
    vgg11: [64, 128, 256, 256, 512, 512, 512, 512],
    vgg13: [64, 64, 128, 128, 256, 256, 512, 512, 512, 512],
    vgg16: [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512],
    vgg19: [64, 64, 128, 128, 256, 256, 256, 256, 512, 512, 512, 512, 512, 512, 512, 512],
}
FAMILY = pytest.mark.parametrize("build", PAPER, ids=lambda build: build.__name__)


def convolutions(model):
    return [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@FAMILY
def test_the_convolutions_are_those_of_the_paper(build):
    found = convolutions(build())
    assert [layer.out_channels for layer in found] == PAPER[build]
    assert {layer.kernel_size for layer in found} == {(3, 3)}


@FAMILY
def test_the_parameter_count_follows_from_the_paper(build):
    expected, before = 0, 3
    for channels in PAPER[build]:
        expected += 9 * before * channels + 2 * channels  # kernel; batch norm's scale and shift
        before = channels
    assert count(build(classes=10)) == expected + 512 * 10 + 10


def test_vgg16_for_ten_classes_has_14_724_042_parameters():
    assert count(vgg16()) == 14_724_042


@FAMILY
def test_width_scales_every_block(build):
    assert [layer.out_channels for layer in convolutions(build(width=16))] == [c // 4 for c in PAPER[build]]


@FAMILY
@pytest.mark.parametrize("size", [8, 16, 28, 32, 33, 48, 64])
def test_any_image_size_gives_one_output_a_class(build, size):
    model = build(classes=7, channels=1, width=4)
    assert model(torch.randn(2, 1, size, size)).shape == (2, 7)


def test_images_that_are_not_square_work():
    assert vgg11(width=4)(torch.randn(2, 3, 32, 80)).shape == (2, 10)


@pytest.mark.parametrize(("size", "last"), [(16, 1), (28, 1), (32, 1), (64, 2), (96, 3)])
def test_five_pools_halve_an_image_as_long_as_there_is_something_to_halve(size, last):
    model = vgg11(width=4)
    features = model[: list(model).index(model.block5_2) + 1]
    assert features(torch.randn(2, 3, size, size)).shape[-2:] == (last, last)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pooling_before_the_relu_gives_the_bits_of_the_textbooks_order(layout):
    def trained(is_textbook):
        torch.manual_seed(0)
        model = vgg11(width=4).to(memory_format=layout)
        if is_textbook:
            for block in [block for block in model if hasattr(block, "pool")]:
                block.pool, block.relu = block.relu, block.pool
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(5):
            optimizer.zero_grad()
            inputs = torch.randn(16, 3, 28, 28).contiguous(memory_format=layout)
            nn.functional.cross_entropy(model(inputs), torch.arange(16) % 10).backward()
            optimizer.step()
        return model.state_dict()

    ours, textbook = trained(False), trained(True)
    assert all(torch.equal(ours[name], textbook[name]) for name in ours)


@pytest.mark.parametrize("size", [28, 32])
def test_a_last_batch_of_one_image_trains(size):
    vgg11(width=4, channels=1).train()(torch.randn(1, 1, size, size)).sum().backward()


def test_the_same_seed_gives_the_same_weights():
    torch.manual_seed(3)
    first = vgg11(width=4).state_dict()
    torch.manual_seed(3)
    second = vgg11(width=4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_initial_weights_have_the_variance_of_he_2015():
    for layer in convolutions(vgg16(width=32)):
        fan_in = 9 * layer.in_channels
        assert layer.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.15)


def test_the_loss_starts_near_that_of_a_guess():
    torch.manual_seed(0)
    outputs = vgg11(width=16)(torch.randn(100, 3, 32, 32))
    loss = nn.functional.cross_entropy(outputs, torch.arange(100) % 10).item()
    assert loss == pytest.approx(math.log(10), abs=0.5)


def test_dropout_does_not_change_the_names_in_a_checkpoint():
    vgg11(width=4, dropout=0.5).load_state_dict(vgg11(width=4).state_dict())


def test_dropout_acts_in_training_only():
    model = vgg11(width=4, dropout=0.9)
    images = torch.randn(4, 3, 32, 32)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


@pytest.mark.parametrize(("asked", "built"), [(64, 8), (128, 8), (16, 16), (4, 4)])
def test_a_demo_narrows_a_full_size_network_only(asked, built):
    with demo():
        assert convolutions(vgg16(width=asked))[0].out_channels == built
    assert convolutions(vgg11(width=asked))[0].out_channels == asked


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 0}, "vgg16: classes must be a whole number of at least 1, not 0."),
        ({"channels": -1}, "vgg16: channels must be a whole number of at least 1, not -1."),
        ({"width": 1.5}, "vgg16: width must be a whole number of at least 1, not 1.5."),
        ({"dropout": 1.0}, "vgg16: dropout must be at least 0 and below 1, not 1.0."),
    ],
)
def test_an_argument_out_of_range_is_named(arguments, message):
    with pytest.raises(HarnessError) as error:
        vgg16(**arguments)
    assert str(error.value) == message
