"""Bregman divergences: closed forms against the definition, and against others' formulas."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from holdfast.bregman import (
    At,
    BinaryEntropy,
    BregmanPenalty,
    GaussianLogPartition,
    NegativeEntropy,
    QuadraticForm,
    SquaredLength,
    natural,
)


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def defined(generator, p, q, read=lambda point: point):
    """Phi(p) - Phi(q) - <gradient at q, p - q>, the gradient by automatic differentiation."""
    q = q.clone().requires_grad_()
    value = generator.value(read(q))
    (slope,) = torch.autograd.grad(value.sum(), q)
    inner = (slope * (p - q)).sum(-1)
    if isinstance(generator, GaussianLogPartition):
        inner = inner.sum(0)
    return (generator.value(read(p)) - value - inner).detach()


def test_negative_entropy_is_as_defined_on_positive_numbers_of_any_sum():
    p, q = drawn(0, 5, 4).exp(), drawn(1, 5, 4).exp()
    found = NegativeEntropy().divergence(p.log(), q.log())
    torch.testing.assert_close(found, defined(NegativeEntropy(), p, q, torch.log))
    assert (found > 0).all()


def test_a_zero_chance_costs_nothing_and_its_gradient_is_a_number():
    p = torch.tensor([0.0, 0.3, 0.7], dtype=torch.float64).log()
    outputs = drawn(2, 3).requires_grad_()
    found = NegativeEntropy().divergence(p, outputs.log_softmax(-1))
    found.backward()
    q = outputs.detach().softmax(-1)
    expected = 0.3 * torch.log(0.3 / q[1]) + 0.7 * torch.log(0.7 / q[2])
    torch.testing.assert_close(found.detach(), expected)
    torch.testing.assert_close(outputs.grad, q - p.exp())


def test_binary_entropy_is_as_defined_on_chances_and_takes_certain_ones():
    p, q = drawn(0, 5, 4).sigmoid(), drawn(1, 5, 4).sigmoid()
    found = BinaryEntropy().divergence(p.logit(), q.logit())
    torch.testing.assert_close(found, defined(BinaryEntropy(), p, q, torch.logit))
    certain = torch.tensor([torch.inf, -torch.inf], dtype=torch.float64)
    outputs = drawn(2, 2).requires_grad_()
    found = BinaryEntropy().divergence(certain, outputs)
    found.backward()
    q = outputs.detach().sigmoid()
    torch.testing.assert_close(found.detach(), -q[0].log() - (1 - q[1]).log())
    torch.testing.assert_close(outputs.grad, q - torch.tensor([1.0, 0.0], dtype=torch.float64))


def test_squared_length_is_as_defined():
    p, q = drawn(0, 5, 4), drawn(1, 5, 4)
    found = SquaredLength().divergence(p, q)
    torch.testing.assert_close(found, defined(SquaredLength(), p, q))


@pytest.mark.parametrize("weighed", [True, False])
def test_a_quadratic_form_is_as_defined(weighed):
    p, q = drawn(0, 6), drawn(1, 6)
    generator = QuadraticForm([drawn(2, 6).square()] if weighed else None)
    found = generator.divergence([p], [q])
    torch.testing.assert_close(found, defined(generator, p, q, lambda point: [point]))


def test_the_gaussian_log_partition_is_as_defined_and_gives_the_divergence_of_gaussians():
    means, variances = drawn(0, 2, 3, 4), drawn(1, 2, 3, 4).exp()
    p, q = (natural(m, v) for m, v in zip(means, variances, strict=True))
    found = GaussianLogPartition().divergence(p, q)
    torch.testing.assert_close(found, defined(GaussianLogPartition(), p, q))
    one, other = (Normal(m, v.sqrt()) for m, v in zip(means, variances, strict=True))
    torch.testing.assert_close(found, kl_divergence(other, one).sum(-1))


def test_a_divergence_between_equals_is_zero():
    point = drawn(0, 3, 4)
    for generator, at in (
        (NegativeEntropy(), point.log_softmax(-1)),
        (SquaredLength(), point),
        (GaussianLogPartition(), natural(point, point.exp())),
    ):
        assert generator.divergence(at, at).abs().max() < 1e-12
    assert QuadraticForm().divergence([point], [point]) == 0


@pytest.mark.parametrize(
    ("by_coordinate", "count"), [(False, 2), (True, 4)], ids=["by point", "by coordinate"]
)
def test_coordinates_that_did_not_exist_do_not_count(by_coordinate, count):
    outputs = drawn(0, 2, 4).requires_grad_()
    target = torch.tensor([[1.0, 2.0, torch.nan], [3.0, torch.nan, torch.nan]])
    target[1, 1] = 0.0
    penalty = BregmanPenalty(
        lambda at: at.outputs,
        SquaredLength(),
        lambda at: target,
        weight=3.0,
        by_coordinate=by_coordinate,
    )
    found = penalty(At(outputs, {}))
    found.backward()
    away = outputs.detach()[:, :2] - target[:, :2]
    torch.testing.assert_close(found.detach(), 3 * away.square().sum() / count)
    expected = nn.functional.pad(6 * away / count, (0, 2))
    torch.testing.assert_close(outputs.grad, expected)
