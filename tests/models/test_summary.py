import torch
from torch import nn

from harness.models import googlenet, mlp, summarize, vgg16


def total(table):
    line = next(line for line in table.splitlines() if line.startswith("total"))
    return int(line.split()[-1].replace(",", ""))


def column(table):
    """The numbers of the lines between the two rules."""
    lines = table.splitlines()
    rules = [i for i, line in enumerate(lines) if set(line) == {"-"}]
    return [int(line.split()[-1].replace(",", "")) for line in lines[rules[0] + 1 : rules[1]]]


def check(model):
    table = summarize(model)
    assert total(table) == sum(column(table)) == sum(parameter.numel() for parameter in model.parameters())
    return table


def test_the_total_is_that_of_the_model():
    for model in (vgg16(), googlenet(), mlp(64, 10), nn.LSTM(4, 8), nn.TransformerEncoderLayer(16, 2)):
        check(model)


def test_a_layer_has_its_name_type_and_shapes_in_one_line():
    table = summarize(vgg16(width=8))
    assert "block1_1.conv  Conv2d       8 x 3 x 3 x 3    -            216" in table
    assert "block1_1.norm  BatchNorm2d  8                8             16" in table
    assert "head           Linear       10 x 64          10           650" in table


def test_all_lines_are_aligned():
    lines = summarize(vgg16(width=8)).splitlines()
    assert {len(line) for line in lines} == {len(lines[0])}


def test_shared_parameters_count_once_and_are_marked():
    model = nn.ModuleDict({"embedding": nn.Embedding(100, 8), "head": nn.Linear(8, 100, bias=False)})
    model["head"].weight = model["embedding"].weight
    table = check(model)
    assert total(table) == 800
    assert "100 x 8 (shared)" in table


def test_a_layer_that_is_used_twice_counts_once():
    layer = nn.Linear(4, 4)
    assert total(check(nn.Sequential(layer, nn.ReLU(), layer))) == 20


def test_a_parameter_of_the_model_itself_has_a_line():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.0))
            self.position = nn.Parameter(torch.zeros(1, 16, 8))

    table = check(Scaled())
    assert "scale     Parameter  scalar      -              1" in table
    assert "position  Parameter  1 x 16 x 8  -            128" in table


def test_a_single_layer_is_a_model_too():
    assert total(check(nn.Linear(3, 2))) == 8


def test_a_model_without_parameters_has_an_empty_table():
    assert total(summarize(nn.Sequential(nn.Flatten()))) == 0


def test_frozen_parameters_are_told_apart():
    model = mlp(4, 2, hidden=(3,))
    model.linear1.requires_grad_(False)
    assert summarize(model).splitlines()[-1].split() == ["trainable", "8"]


def test_a_lazy_layer_counts_nothing_until_its_shape_is_known():
    table = summarize(nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2)))
    assert "not known yet" in table
    assert total(table) == 8
