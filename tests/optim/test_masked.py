"""A zero in the mask is no movement, under every optimizer."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from holdfast.optim.masked import MaskedUpdates, ScaledUpdates

SHAPES = [(4, 3), (5,), (2, 3, 2)]
MASK_SHAPES = [[(4, 3), (4, 1), (1, 3)], [(5,), (1,)], [(2, 3, 2), (2, 1, 1), (1, 3, 1)]]


def drawn_masks(draw: torch.Generator, kind: int) -> list[torch.Tensor]:
    return [torch.rand(shapes[kind % len(shapes)], generator=draw) < 0.5 for shapes in MASK_SHAPES]


def gradients(draw: torch.Generator) -> list[torch.Tensor]:
    return [torch.randn(shape, generator=draw) for shape in SHAPES]


class Entry:
    """One number under SGD with momentum, written down from the textbook."""

    def __init__(self, value, momentum=0.9, decay=0.1, lr=0.05):
        self.value, self.velocity = value, 0.0
        self.momentum, self.decay, self.lr = momentum, decay, lr

    def update(self, gradient, step):
        self.velocity = self.momentum * self.velocity + gradient + self.decay * self.value
        self.value -= self.lr * self.velocity


class AdamEntry:
    """One number under Adam (decay in the gradient) or AdamW (decay apart)."""

    def __init__(self, value, decoupled, decay=0.1, lr=0.05):
        self.value, self.first, self.second = value, 0.0, 0.0
        self.decoupled, self.decay, self.lr = decoupled, decay, lr

    def update(self, gradient, step):
        if self.decoupled:
            self.value *= 1 - self.lr * self.decay
        else:
            gradient += self.decay * self.value
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        first, second = self.first / (1 - 0.9**step), self.second / (1 - 0.999**step)
        self.value -= self.lr * first / (second**0.5 + 1e-8)


OPTIMIZERS = {
    "sgd": (partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.1), Entry),
    "adam": (
        partial(torch.optim.Adam, lr=0.05, weight_decay=0.1),
        partial(AdamEntry, decoupled=False),
    ),
    "adamw": (
        partial(torch.optim.AdamW, lr=0.05, weight_decay=0.1),
        partial(AdamEntry, decoupled=True),
    ),
}
WAYS = [{"foreach": True}, {"foreach": False}, {"fused": True}]


@pytest.mark.parametrize("way", WAYS, ids=["foreach", "one by one", "fused"])
@pytest.mark.parametrize("name", OPTIMIZERS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), kind=st.integers(0, 2))
def test_every_entry_moves_as_if_steps_at_which_it_is_masked_had_not_been(name, way, seed, kind):
    """Masks change at every step; the moments of a masked entry wait with it."""
    make, entry = OPTIMIZERS[name]
    draw = torch.Generator().manual_seed(seed)
    parameters = [nn.Parameter(g.double()) for g in gradients(draw)]
    entries = [[entry(value) for value in p.flatten().tolist()] for p in parameters]
    optimizer = make(parameters, **way)
    for step in range(1, 5):
        masks = drawn_masks(draw, kind + step)
        for p, g in zip(parameters, gradients(draw), strict=True):
            p.grad = g.double()
        flat = [
            zip(row, p.grad.flatten().tolist(), m.expand(p.shape).flatten().tolist(), strict=True)
            for row, p, m in zip(entries, parameters, masks, strict=True)
        ]
        for row in flat:
            for single, gradient, open_ in row:
                if open_:
                    single.update(gradient, step)
        updates = MaskedUpdates(zip(parameters, masks, strict=True))
        updates.before(optimizer)
        optimizer.step()
        updates.after(optimizer)
    for p, row in zip(parameters, entries, strict=True):
        expected = torch.tensor([single.value for single in row], dtype=torch.float64)
        assert torch.allclose(p.detach().flatten(), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("freeze_state", [True, False])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_masked_entries_keep_their_bits_under_momentum_and_decay(name, freeze_state, generator):
    make, _ = OPTIMIZERS[name]
    parameters = [nn.Parameter(g) for g in gradients(generator)]
    optimizer = make(parameters)

    def step():
        for p, g in zip(parameters, gradients(generator), strict=True):
            p.grad = g
        optimizer.step()

    step()  # moments are no longer zero
    before = [p.detach().clone() for p in parameters]
    masks = drawn_masks(generator, 0)
    handles = MaskedUpdates(zip(parameters, masks, strict=True), freeze_state=freeze_state).guard(
        optimizer
    )
    for _ in range(3):
        step()
    for p, was, mask in zip(parameters, before, masks, strict=True):
        assert torch.equal(p[~mask], was[~mask])
        assert (p[mask] != was[mask]).all()
    for handle in handles:
        handle.remove()
    step()
    assert all((p != was).all() for p, was in zip(parameters, before, strict=True))


def test_without_freezing_the_state_moments_of_masked_entries_decay(generator):
    """Adam's first moment, three masked steps later, is 0.9^3 of what it was."""
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([weight], lr=0.01)
    weight.grad = torch.tensor([1.0, 1.0])
    optimizer.step()
    MaskedUpdates([(weight, torch.tensor([True, False]))], freeze_state=False).guard(optimizer)
    for _ in range(3):
        weight.grad = torch.tensor([1.0, 1.0])
        optimizer.step()
    first = optimizer.state[weight]["exp_avg"]
    assert first[1].item() == pytest.approx(0.1 * 0.9**3)
    assert first[0].item() == pytest.approx(1 - 0.9**4)


def test_masking_gradients_alone_lets_adam_and_weight_decay_move_masked_entries():
    """The leak that putting back is for."""
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight], lr=0.01, weight_decay=0.1)
    weight.grad = torch.ones(2)
    optimizer.step()
    before = weight.detach().clone()
    weight.grad = torch.ones(2)
    MaskedUpdates([(weight, torch.tensor([True, False]))]).mask_gradients()
    assert weight.grad.tolist() == [1.0, 0.0]
    optimizer.step()
    # First moment 0.09 / (1 - 0.81), second 0.000999 / (1 - 0.998001): ratio 0.670; decay 0.001.
    moved = (before - weight.detach())[1].item()
    assert moved == pytest.approx(
        0.01 * 0.47368 / 0.70693 + 0.01 * 0.1 * before[1].item(), rel=1e-3
    )


def test_a_parameter_without_gradient_is_left_alone():
    weight, other = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight, other], lr=1.0)
    updates = MaskedUpdates([(weight, torch.tensor([True, False])), (other, torch.tensor([True]))])
    other.grad = torch.ones(2)
    updates.before(optimizer)
    optimizer.step()
    updates.after(optimizer)
    assert weight.tolist() == [1.0, 1.0]
    assert other.tolist() == [0.0, 0.0]


def test_two_masks_of_one_parameter_multiply():
    weight = nn.Parameter(torch.zeros(2, 2))
    rows, columns = torch.tensor([[True], [False]]), torch.tensor([[True, False]])
    optimizer = torch.optim.SGD([weight], lr=1.0)
    MaskedUpdates([(weight, rows), (weight, columns)]).guard(optimizer)
    weight.grad = torch.ones(2, 2)
    optimizer.step()
    assert weight.tolist() == [[-1.0, 0.0], [0.0, 0.0]]


def test_gradients_in_half_precision_are_masked():
    weight = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = torch.optim.AdamW([weight], lr=0.5)
    MaskedUpdates([(weight, torch.tensor([True, False, True, False]))]).guard(optimizer)
    weight.grad = torch.ones(4, dtype=torch.bfloat16)
    optimizer.step()
    assert weight[1::2].tolist() == [1.0, 1.0]
    assert (weight[::2] < 1).all()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_scaling_sgd_steps_is_scaling_its_gradients(momentum):
    torch.manual_seed(0)
    factor = torch.tensor([[1.0, 0.7, 0.2, 0.0]])
    scaled, reference = nn.Linear(4, 3).double(), nn.Linear(4, 3).double()
    reference.load_state_dict(scaled.state_dict())
    updates = ScaledUpdates([(scaled.weight, factor.double())])
    for model in (scaled, reference):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=momentum)
        for step in range(5):
            optimizer.zero_grad()
            x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step)).double()
            (model(x) ** 2).mean().backward()
            if model is reference:
                model.weight.grad *= factor
                optimizer.step()
            else:
                updates.before()
                optimizer.step()
                updates.after()
    torch.testing.assert_close(scaled.weight, reference.weight)


def test_a_scaled_step_is_its_share_of_adams_decay_and_all():
    torch.manual_seed(0)
    whole, part = nn.Parameter(torch.randn(3)), nn.Parameter(torch.empty(3))
    part.data.copy_(whole.data)
    start, factor = whole.detach().clone(), torch.tensor([1.0, 0.25, 0.0])
    for parameter in (whole, part):
        optimizer = torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.5)
        updates = ScaledUpdates([(parameter, factor if parameter is part else torch.ones(1))])
        parameter.square().sum().backward()
        updates.before()
        optimizer.step()
        updates.after()
    assert part[0] == whole[0]
    torch.testing.assert_close(part[1] - start[1], 0.25 * (whole[1] - start[1]))
    assert part[2] == start[2]


def test_gradients_of_what_may_not_move_do_not_count_when_clipping():
    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = torch.tensor([3.0, 4.0, 100.0])
    ScaledUpdates([(parameter, torch.tensor([1.0, 0.5, 0.0]))]).before()
    assert parameter.grad.tolist() == [3.0, 4.0, 0.0]
