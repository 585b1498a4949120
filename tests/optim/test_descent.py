"""What every weight contributes to an update, by hand."""

import pytest
import torch
from torch import nn

from holdfast.losses import quadratic_penalty
from holdfast.optim.descent import Descent, pull


def parameters():
    torch.manual_seed(0)
    return [
        nn.Parameter(torch.randn(2, 3)),
        nn.Parameter(torch.randn(3)),
        nn.Parameter(torch.ones(1)),
    ]


def lossy(weights):
    """The last weight takes no part."""
    return (weights[0] @ weights[1]).square().sum()


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_it_is_minus_the_gradient_times_the_movement_whatever_came_between(optimizer):
    weights = parameters()
    lossy(weights).backward()
    gradients = [p.grad.clone() for p in weights[:2]]
    before = [p.detach().clone() for p in weights]
    update, path = Descent(weights), [torch.ones_like(p) for p in weights]
    nn.utils.clip_grad_norm_(weights, 0.01)
    optimizer(weights, lr=0.1, weight_decay=0.1).step()
    update.add_to(path)
    for found, p, b, g in zip(path, weights, before, gradients, strict=False):
        torch.testing.assert_close(found, 1 - g * (p.detach() - b))
    assert path[2].tolist() == [1.0]


def test_pull_adds_what_the_penaltys_backward_pass_would():
    anchors = [torch.randn_like(p) for p in parameters()]
    importances = [torch.rand_like(p) for p in parameters()]
    expected, found = parameters(), parameters()
    penalty = quadratic_penalty(expected[:2], anchors[:2], importances[:2])
    (lossy(expected) + 0.7 * penalty).backward()
    lossy(found).backward()
    pull(found, anchors, importances, 0.7)
    for a, b in zip(found[:2], expected[:2], strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    assert found[2].grad is None
