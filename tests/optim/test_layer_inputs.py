"""What enters a layer, as columns."""

import pytest
import torch
from torch import nn

from holdfast.learner import Learner
from holdfast.models import build
from holdfast.models.heads import GrowingHead
from holdfast.optim import layer_inputs as module
from holdfast.optim.layer_inputs import as_columns, layer_inputs, weighing
from holdfast.testing import small_stream

CONVOLUTIONS = [
    {},
    {"stride": 2, "padding": 1},
    {"stride": (2, 1), "padding": (0, 2)},
    {"padding": 2, "dilation": 2},
    {"padding": "same"},
    {"padding": "valid"},
    {"padding": 1, "padding_mode": "circular"},
    {"padding": 1, "padding_mode": "reflect"},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": (1, 3)},
]


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_a_convolution_is_its_flat_weight_times_its_columns(options):
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, **{"kernel_size": 3, **options})
    x = torch.randn(4, 2, 7, 6)
    out = layer(x)
    found = layer.weight.flatten(1) @ as_columns(layer, x) + layer.bias[:, None]
    torch.testing.assert_close(found, out.transpose(0, 1).flatten(1))


@pytest.mark.parametrize("layer", [nn.Linear(5, 3), GrowingHead(5, 3)], ids=str)
@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 5)])
def test_a_linear_layer_is_its_weight_times_its_columns(layer, shape):
    x = torch.randn(shape)
    found = (layer.weight @ as_columns(layer, x)).T + layer.bias
    torch.testing.assert_close(found, layer(x).flatten(0, -2))


def begun(model, head="full"):
    stream = small_stream()
    learner = Learner(build(model, stream, head=head, seed=1))
    learner.start(stream)
    learner.begin(stream[0])
    return learner


def entering(learner, x):
    """Written out for a multilayer perceptron: the input of every linear layer."""
    found, model = [], learner.model
    for layer in [*model.backbone[0:1], *model.backbone[1], model.head]:
        if isinstance(layer, nn.Linear):
            found.append(x.T.double())
        x = layer(x)
    return found


def test_inputs_are_taken_of_all_examples_in_order_and_nothing_else_is_touched():
    learner = begun("mlp(width=16, depth=2)")
    table = learner.stream[0].train
    learner.model.train()
    with torch.no_grad():
        expected = entering(learner, table["x"])
    found = layer_inputs(learner, table, weighing(learner.model))
    assert list(found) == ["backbone.1.1", "backbone.1.3", "head"]
    for a, b in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(a @ a.T, b @ b.T)
    assert learner.model.training
    assert not any(layer._forward_pre_hooks for layer in learner.model.modules())


def test_layers_that_many_patches_enter_are_summed_up_and_keep_all_products(monkeypatch):
    learner = begun("cnn(width=4, depth=2)")
    layers, table = weighing(learner.model), learner.stream[0].train
    monkeypatch.setattr(module, "AT_ONCE", 7)
    whole = {}

    def note(layer, inputs):
        columns = as_columns(layer, inputs[0]).double()
        whole[layer] = whole.get(layer, 0) + columns @ columns.T

    hooks = [layer.register_forward_pre_hook(note) for layer in layers.values()]
    found = layer_inputs(learner, table, layers)
    for hook in hooks:
        hook.remove()
    assert found["backbone.1.blocks.0"].shape[1] < 5 * 9 < 40 * 64
    for name, columns in found.items():
        torch.testing.assert_close(columns @ columns.T, whole[layers[name]])


def test_no_more_columns_are_taken_than_asked():
    learner = begun("mlp(width=16, depth=1)")
    table = learner.stream[0].train
    layers = weighing(learner.model)
    few, first = layer_inputs(learner, table, layers, 6), table.take(slice(0, 6))
    for a, b in zip(few.values(), layer_inputs(learner, first, layers).values(), strict=True):
        assert torch.equal(a, b)


def test_layers_that_nothing_enters_have_no_columns():
    learner = begun("mlp(width=16, depth=1)")
    idle = {"idle": nn.Linear(3, 3)}
    assert layer_inputs(learner, learner.stream[0].train, idle) == {}
