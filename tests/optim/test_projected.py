"""No movement inside a subspace, under every optimizer."""

from functools import partial

import pytest
import torch
from torch import nn

from holdfast.optim.projected import ProjectedUpdates, steps_are_sums

OPTIMIZERS = [
    partial(torch.optim.SGD, lr=0.1),
    partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    partial(torch.optim.Adam, lr=0.1, weight_decay=0.1),
    partial(torch.optim.AdamW, lr=0.1, weight_decay=0.1, amsgrad=True),
    partial(torch.optim.RMSprop, lr=0.1, momentum=0.5),
]


def basis_of(features, rank, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(features, rank, generator=draw).double())[0].float()


def weights():
    draw = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(s, generator=draw)) for s in ((4, 12), (3, 2, 2, 3), (5, 6))]


def descend(parameters, optimizer, steps, seed=2):
    draw = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=draw)
        optimizer.step()


@pytest.mark.parametrize("rank", [1, 5, 6, 7, 11])
@pytest.mark.parametrize("make", OPTIMIZERS, ids=lambda m: m.func.__name__)
def test_weights_move_outside_their_subspace_only(make, rank):
    parameters = weights()
    bases = [basis_of(12, rank), basis_of(12, rank, 1)]
    optimizer = make(parameters)
    descend(parameters, optimizer, 3)  # old moments, which know of no subspace
    before = [p.detach().clone() for p in parameters]
    updates = ProjectedUpdates(zip(parameters, bases, strict=False))
    handles = updates.guard(optimizer)
    descend(parameters, optimizer, 20)
    for weight, was, basis in zip(parameters, before, bases, strict=False):
        moved = (weight.detach() - was).flatten(1)
        assert moved.norm() > 0.1
        assert (moved @ basis).abs().max() < 2e-6
    for handle in handles:
        handle.remove()
    descend(parameters, optimizer, 1)
    assert ((parameters[0].detach() - before[0]) @ bases[0]).abs().max() > 1e-3


@pytest.mark.parametrize("rank", [3, 9])
def test_a_projected_gradient_is_the_formula_whichever_basis_is_smaller(rank):
    weight, basis = weights()[1], basis_of(12, rank)
    updates = ProjectedUpdates([(weight, basis)])
    updates.project_gradients()
    assert weight.grad is None
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
    rows = weight.grad.flatten(1).double()
    m = basis.double()
    updates.project_gradients()
    expected = (rows - rows @ m @ m.T).view(weight.shape).float()
    torch.testing.assert_close(weight.grad, expected, rtol=1e-5, atol=1e-6)


def test_a_weight_whose_whole_space_is_held_does_not_move_at_all():
    weight = weights()[0]
    before = weight.detach().clone()
    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.1)
    ProjectedUpdates([(weight, basis_of(12, 12))]).guard(optimizer)
    descend([weight], optimizer, 5)
    assert torch.equal(weight, before)


def test_only_gradient_descent_without_decay_moves_by_sums_of_gradients():
    parameters = weights()
    assert steps_are_sums(torch.optim.SGD(parameters, lr=0.1, momentum=0.9))
    assert not steps_are_sums(torch.optim.SGD(parameters, lr=0.1, weight_decay=0.1))
    assert not steps_are_sums(torch.optim.Adam(parameters, lr=0.1))
