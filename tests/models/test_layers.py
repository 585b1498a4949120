"""Layers drawn anew, and the last ones trained alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast.errors import UsageError
from holdfast.models.heads import CosineHead, GrowingHead
from holdfast.models.layers import last_layers, reinitialise, stubborn
from holdfast.unlearning.last import LastLayers


def net():
    return nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.BatchNorm2d(2),
        nn.Conv2d(2, 2, 3),
        nn.BatchNorm2d(2),
        nn.Linear(3, 4),
    )


def test_layers_are_drawn_as_pytorch_draws_them():
    model = net()
    torch.manual_seed(5)
    reinitialise(model)
    torch.manual_seed(5)
    again = net()
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_xavier_weights_have_the_bound_of_glorot_and_bengio_and_no_bias():
    layer = nn.Linear(200, 100)
    reinitialise(layer, xavier=True)
    bound = (6 / 300) ** 0.5
    assert layer.weight.abs().max() <= bound
    assert layer.weight.abs().max() > 0.98 * bound
    assert not layer.bias.any()


def test_batch_statistics_start_anew():
    model = net()
    model[1].running_mean.fill_(3)
    reinitialise(model)
    assert not model[1].running_mean.any()


def test_growing_and_cosine_heads_can_be_drawn_anew():
    head = CosineHead(8, 3)
    head.scale.data.fill_(99)
    before = head.weight.detach().clone()
    reinitialise(head)
    assert float(head.scale.detach()) == 10
    assert not torch.equal(head.weight, before)
    growing = GrowingHead(8, 3)
    growing.weight.data.fill_(7)
    reinitialise(growing)
    assert growing.weight.abs().max() <= 8**-0.5


def test_a_part_that_cannot_be_drawn_anew_is_named():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

    assert "Own has weights and no reset_parameters()" in stubborn(nn.Sequential(Own()))
    with pytest.raises(UsageError, match="Own has weights"):
        reinitialise(Own())


def test_the_last_layers_come_with_the_norms_after_the_first_of_them():
    model = net()
    assert last_layers(model, 1) == [model[4]]
    assert last_layers(model, 2) == [model[2], model[3], model[4]]
    with pytest.raises(UsageError, match=r"k must be at most the 3 .* given: 4"):
        last_layers(model, 4)


def test_all_other_parameters_are_frozen_and_thaw_but_those_frozen_before():
    model = net()
    model[0].bias.requires_grad_(False)
    last = LastLayers(2)
    last.freeze_others(model)
    assert [p.requires_grad for p in model[0].parameters()] == [False, False]
    assert [p.requires_grad for p in model[1].parameters()] == [False, False]
    assert all(p.requires_grad for layer in model[2:] for p in layer.parameters())
    model.train()
    last.hold_norms()
    assert (model[1].training, model[3].training) == (False, True)
    last.thaw()
    assert model[0].weight.requires_grad
    assert not model[0].bias.requires_grad
