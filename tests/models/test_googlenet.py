import pytest
import torch

from harness.demo import demo
from harness.errors import HarnessError
from harness.models import googlenet
from harness.models.googlenet import Inception

# "output size" and the branches' columns of table 1 of Szegedy et al. (2014):
# depth after the module; 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool proj.
TABLE = [
    (256, 64, 96, 128, 16, 32, 32),
    (480, 128, 128, 192, 32, 96, 64),
    (512, 192, 96, 208, 16, 48, 64),
    (512, 160, 112, 224, 24, 64, 64),
    (512, 128, 128, 256, 24, 64, 64),
    (528, 112, 144, 288, 32, 64, 64),
    (832, 256, 160, 320, 32, 128, 128),
    (832, 256, 160, 320, 32, 128, 128),
    (1024, 384, 192, 384, 48, 128, 128),
]


def modules(model):
    return [module for module in model if isinstance(module, Inception)]


def convolution(kernel, inputs, outputs):
    return kernel * kernel * inputs * outputs + 2 * outputs  # batch norm's scale and shift


def test_the_inception_modules_have_the_depths_of_the_paper():
    assert [module.outputs for module in modules(googlenet())] == [row[0] for row in TABLE]


def test_the_parameter_count_follows_from_the_paper():
    expected = convolution(3, 3, 64) + convolution(1, 64, 64) + convolution(3, 64, 192)
    depth = 192
    for after, one, before3, three, before5, five, pooled in TABLE:
        expected += convolution(1, depth, one)
        expected += convolution(1, depth, before3) + convolution(3, before3, three)
        expected += convolution(1, depth, before5) + convolution(5, before5, five)
        expected += convolution(1, depth, pooled)
        depth = after
    assert sum(parameter.numel() for parameter in googlenet().parameters()) == expected + 1024 * 10 + 10


@pytest.mark.parametrize("width", [1, 8, 10, 32])
def test_a_module_gives_the_channels_that_it_announces(width):
    model = googlenet(width=width).eval()
    images = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        for layer in model[: list(model).index(model.mean)]:
            images = layer(images)
            if isinstance(layer, Inception):
                assert images.shape[1] == layer.outputs


def test_width_scales_every_module():
    assert [module.outputs for module in modules(googlenet(width=32))] == [row[0] // 2 for row in TABLE]


@pytest.mark.parametrize("size", [8, 16, 28, 32, 48])
def test_any_image_size_gives_one_output_a_class(size):
    assert googlenet(classes=7, channels=1, width=4)(torch.randn(2, 1, size, size)).shape == (2, 7)


def test_the_first_layers_keep_the_size_of_an_image():
    model = googlenet(width=4)
    assert model[:5](torch.randn(1, 3, 32, 32)).shape[-2:] == (32, 32)
    last = model[: list(model).index(model.inception5b) + 1]
    assert last(torch.randn(1, 3, 32, 32)).shape[-2:] == (8, 8)


def test_the_same_seed_gives_the_same_outputs():
    images = torch.randn(2, 3, 16, 16)
    outputs = []
    for _ in range(2):
        torch.manual_seed(3)
        outputs.append(googlenet(width=4)(images))
    assert torch.equal(*outputs)


@pytest.mark.parametrize(("asked", "depth"), [(64, 128), (128, 128), (16, 256)])
def test_a_demo_narrows_a_full_size_network_only(asked, depth):
    with demo():
        assert googlenet(width=asked).head.in_features == depth


def test_an_argument_out_of_range_is_named():
    with pytest.raises(HarnessError, match="googlenet: width must be a whole number of at least 1, not 0"):
        googlenet(width=0)
