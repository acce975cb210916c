import itertools

import pytest
import torch
from torch import nn

from harness.demo import demo
from harness.errors import HarnessError
from harness.models import mlp


@pytest.mark.parametrize("hidden", [(), (5,), (256, 128), (7, 6, 5)])
def test_the_parameter_count_follows_from_the_sizes(hidden):
    sizes = [64, *hidden, 10]
    expected = sum(before * after + after for before, after in itertools.pairwise(sizes))
    assert sum(parameter.numel() for parameter in mlp(64, 10, hidden=hidden).parameters()) == expected


@pytest.mark.parametrize("shape", [(64,), (1, 8, 8), (4, 4, 4)])
def test_examples_of_any_shape_are_flattened(shape):
    assert mlp(64, 10)(torch.randn(3, *shape)).shape == (3, 10)


def test_a_regression_has_one_output_for_each_target():
    assert mlp(10, 1, hidden=(8,))(torch.randn(3, 10)).shape == (3, 1)


def test_nothing_follows_the_last_layer():
    assert isinstance(mlp(4, 2, dropout=0.5)[-1], nn.Linear)


def test_dropout_follows_every_hidden_layer():
    rates = [layer.p for layer in mlp(4, 2, hidden=(3, 3), dropout=0.5) if isinstance(layer, nn.Dropout)]
    assert rates == [0.5, 0.5]


def test_a_list_is_as_good_as_a_tuple():
    assert mlp(4, 2, hidden=[8])(torch.randn(3, 4)).shape == (3, 2)


def test_the_same_seed_gives_the_same_weights():
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(mlp(64, 10).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_demo_leaves_it_as_it_is():
    with demo():
        assert mlp(64, 10).linear1.out_features == 256


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": 0, "classes": 2}, "mlp: inputs must be a whole number of at least 1, not 0."),
        (
            {"inputs": 4, "classes": 2, "hidden": (8, 0)},
            "mlp: hidden must be a whole number of at least 1, not 0.",
        ),
        (
            {"inputs": 4, "classes": 2, "dropout": -0.1},
            "mlp: dropout must be at least 0 and below 1, not -0.1.",
        ),
    ],
)
def test_an_argument_out_of_range_is_named(arguments, message):
    with pytest.raises(HarnessError) as error:
        mlp(**arguments)
    assert str(error.value) == message
