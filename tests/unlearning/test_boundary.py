"""The class across the boundary, by hand on a linear model."""

from __future__ import annotations

import torch
from torch import nn

from holdfast.data import Table
from holdfast.unlearning.boundary import across, nearest_classes


def linear():
    """Classes 0, 1 and 2 by the largest of x_0, x_1 and 0.5."""
    model = nn.Linear(2, 3)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
        model.bias.copy_(torch.tensor([0.0, 0.0, 0.5]))
    return model


def test_one_step_against_the_label_is_taken_by_hand():
    """The gradient of the cross-entropy by x is p_0 - [y = 0] and p_1 - [y = 1].

    For a label of 0 x_0 falls and x_1 rises by 0.1; for 2 both rise. So [0.6, 0.45] of class 0
    goes to [0.5, 0.55]: class 1. [0.9, 0.1] goes to [0.8, 0.2] and stays. [0.42, 0.1] of class 2
    goes to [0.52, 0.2]: class 0.
    """
    x = torch.tensor([[0.6, 0.45], [0.9, 0.1], [0.42, 0.1]])
    y = torch.tensor([0, 0, 2])
    model = linear()
    assert model(x).argmax(1).tolist() == [0, 0, 2]
    assert across(model, {"x": x, "y": y}, 0.1, 0.0, 1.0).tolist() == [1, 0, 0]


def test_the_step_ends_at_the_edge_of_what_inputs_can_be():
    """From [0.95, 0.9] to [0.75, 1.1], or to [0.75, 0.76] where 0.76 is the most."""
    batch = {"x": torch.tensor([[0.95, 0.9]]), "y": torch.tensor([0])}
    assert across(linear(), batch, 0.1, 0.0, 2.0).tolist() == [1]
    seen = []

    def model(x):
        seen.append(x.detach().clone())
        return linear()(x)

    assert across(model, batch, 0.2 / 0.76, 0.0, 0.76).tolist() == [1]
    assert torch.allclose(seen[-1], torch.tensor([[0.75, 0.76]]))


def test_bytes_stay_whole_and_the_step_is_a_share_of_their_range():
    """A step of 0.1 of 0..20 is 2: 11 and 9 become 9 and 11."""
    seen = []

    def model(x):
        seen.append(x.detach().clone())
        return x

    batch = {"x": torch.tensor([[11, 9]], dtype=torch.uint8), "y": torch.tensor([0])}
    assert across(model, batch, 0.11, 0.0, 20.0).tolist() == [1]
    assert seen[-1].tolist() == [[9.0, 11.0]]


def test_a_table_is_searched_in_evaluation_mode_and_the_mode_comes_back():
    model = nn.Sequential(nn.Dropout(0.9), linear()).train()
    x = torch.rand(300, 2)
    table = Table({"x": x, "y": linear()(x).argmax(1)})
    first = nearest_classes(model, table, 0.1, 0.0, 1.0)
    assert torch.equal(first, nearest_classes(model, table, 0.1, 0.0, 1.0))
    assert model.training
    assert len(first) == 300
