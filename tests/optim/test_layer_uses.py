"""What enters layers and what comes back, against autograd's own gradients."""

import pytest
import torch
from torch import nn

from holdfast.optim.layer_uses import layer_uses, trained_layers


def network(inplace=False):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=inplace), nn.Linear(4, 2))


def test_the_gradient_of_a_linear_layer_is_what_came_back_times_what_entered():
    model, x = network(), torch.randn(5, 3)
    uses = layer_uses(trained_layers(model), lambda: model(x).square().sum(1), 5)
    assert [use.layer for use in uses] == [model[0], model[2]]
    model(x).square().sum().backward()
    for use in uses:
        torch.testing.assert_close(use.returned.T @ use.entered, use.layer.weight.grad)
        torch.testing.assert_close(use.returned.sum(0), use.layer.bias.grad)


def test_outputs_that_are_overwritten_are_told_not_taken():
    model, x = network(inplace=True), torch.randn(5, 3)
    assert layer_uses(trained_layers(model), lambda: model(x).sum(1), 5) is None


def test_frozen_layers_are_not_looked_at():
    model = network()
    model[0].requires_grad_(False)
    model[2].bias.requires_grad_(False)
    assert trained_layers(model) == [model[2]]


def test_hooks_are_taken_off_also_after_an_error():
    layer = nn.Linear(2, 2)

    def fails():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        layer_uses([layer], fails, 1)
    assert not layer._forward_hooks
    assert not layer._forward_pre_hooks
