"""Loss terms that methods share."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from holdfast.losses import (
    binary_cross_entropy,
    distillation,
    output_distance,
    quadratic_penalty,
    sequence_logprobs,
    supervised_contrastive,
)


def draws(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_distillation_is_the_cross_entropy_of_softened_probabilities(temperature):
    outputs, targets = draws(4, 3), draws(4, 3, seed=1)
    found = distillation(outputs, targets, temperature)
    for i in range(4):
        q = np.exp(targets[i].numpy() / temperature)
        p = np.exp(outputs[i].numpy() / temperature)
        expected = -(q / q.sum() * np.log(p / p.sum())).sum()
        assert float(found[i]) == pytest.approx(expected)


def test_the_gradient_of_distillation_is_that_of_the_kullback_leibler_divergence():
    outputs, targets = draws(4, 3).requires_grad_(), draws(4, 3, seed=1)
    (found,) = torch.autograd.grad(distillation(outputs, targets, 2.0).sum(), outputs)
    p, q = (outputs / 2).softmax(1), (targets / 2).softmax(1)
    torch.testing.assert_close(found, ((p - q) / 2).detach())


def test_distillation_of_equal_logits_has_no_gradient():
    outputs = draws(4, 3).requires_grad_()
    (found,) = torch.autograd.grad(distillation(outputs, outputs.detach()).sum(), outputs)
    torch.testing.assert_close(found, torch.zeros_like(found))


def test_output_distance_is_the_mean_over_known_entries():
    stored = torch.tensor([[1.0, 2.0, torch.nan], [0.0, torch.nan, torch.nan]])
    outputs = torch.tensor([[2.0, 4.0, 9.0, 9.0], [3.0, 9.0, 9.0, 9.0]], requires_grad=True)
    distance = output_distance(outputs, stored)
    assert float(distance.detach()) == pytest.approx((1 + 4 + 9) / 3)
    (g,) = torch.autograd.grad(distance, outputs)
    expected = torch.tensor([[1.0, 2.0, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0]]) * 2 / 3
    torch.testing.assert_close(g, expected)


def test_output_distance_without_gaps_is_the_mean_squared_error():
    outputs, stored = draws(5, 3), draws(5, 3, seed=1)
    torch.testing.assert_close(output_distance(outputs, stored), F.mse_loss(outputs, stored))


def test_binary_cross_entropy_is_summed_over_classes_for_every_example():
    found = binary_cross_entropy(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.25]]))
    g = 1 / (1 + math.exp(-2))
    expected = math.log(2) - 0.25 * math.log(g) - 0.75 * math.log(1 - g)
    assert found.tolist() == [pytest.approx(expected)]


@pytest.mark.parametrize("weighted", [True, False])
def test_the_quadratic_penalty_and_its_gradient_are_those_written_out(weighted):
    shapes = [(3, 2), (4,), ()]
    parameters = [draws(*s, seed=k).requires_grad_() for k, s in enumerate(shapes)]
    anchors = [draws(*s, seed=10 + k) for k, s in enumerate(shapes)]
    weights = [draws(*s, seed=20 + k).square() for k, s in enumerate(shapes)]
    importances = weights if weighted else None
    written = sum(
        0.5 * ((w if weighted else 1) * (p - a) ** 2).sum()
        for p, a, w in zip(parameters, anchors, weights, strict=True)
    )
    found = quadratic_penalty(parameters, anchors, importances)
    torch.testing.assert_close(found, written)
    for a, b in zip(
        torch.autograd.grad(3 * found, parameters),
        torch.autograd.grad(3 * written, parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_the_quadratic_penalty_passes_torchs_own_gradient_check():
    anchor, importance = draws(4, seed=1), draws(4, seed=2).square()

    def penalty(p):
        return quadratic_penalty([p], [anchor], [importance])

    assert torch.autograd.gradcheck(penalty, (draws(4).requires_grad_(),))


@pytest.mark.parametrize("shift", [True, False])
def test_sequence_logprobs_add_up_the_labelled_tokens_of_each_row(shift):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 7, generator=generator, requires_grad=True)
    labels = torch.randint(0, 7, (3, 5), generator=generator)
    labels[0, 2:], labels[2] = -100, -100
    found = sequence_logprobs(logits, labels, shift=shift)
    for row in range(3):
        places = [t for t in range(5) if labels[row, t] != -100 and not (shift and t == 0)]
        expected = sum(
            logits.detach()[row, t - int(shift)].log_softmax(0)[labels[row, t]] for t in places
        )
        assert found[row].item() == pytest.approx(float(expected), rel=1e-5)
    found.sum().backward()
    # The gradient of a log-probability is one-hot minus softmax at a labelled place, else 0.
    at = 0 if shift else 1
    expected = F.one_hot(labels[1, 1], 7) - logits[1, at].softmax(0)
    torch.testing.assert_close(logits.grad[1, at], expected.detach())
    assert not logits.grad[2].any()


def test_sequence_logprobs_of_half_precision_logits_are_summed_in_single():
    logits = torch.zeros(1, 1001, 256, dtype=torch.bfloat16)
    labels = torch.zeros(1, 1001, dtype=torch.long)
    assert float(sequence_logprobs(logits, labels)) == pytest.approx(
        -1000 * math.log(256), rel=1e-6
    )


def test_the_supervised_contrastive_loss_is_the_mean_over_pairs_of_its_paper():
    z, labels = F.normalize(draws(7, 3)), torch.tensor([0, 1, 0, 2, 1, 0, 1])
    found = supervised_contrastive(z, labels, 0.3)
    for i in range(7):
        others = [a for a in range(7) if a != i]
        bottom = sum(math.exp(float(z[i] @ z[a]) / 0.3) for a in others)
        pairs = [
            float(z[i] @ z[p]) / 0.3 - math.log(bottom) for p in others if labels[p] == labels[i]
        ]
        expected = -sum(pairs) / len(pairs) if pairs else 0.0
        assert float(found[i]) == pytest.approx(expected, rel=1e-9)


def test_the_supervised_contrastive_gradient_is_that_of_finite_differences():
    labels = torch.tensor([0, 1, 0, 2, 1])

    def loss(z):
        return supervised_contrastive(z, labels, 0.5).mean()

    assert torch.autograd.gradcheck(loss, (F.normalize(draws(5, 3)).requires_grad_(),))


def test_a_row_that_is_alone_has_no_loss_and_no_gradient():
    z = F.normalize(draws(1, 3)).requires_grad_()
    loss = supervised_contrastive(z, torch.tensor([4]))
    loss.sum().backward()
    assert loss.tolist() == [0.0]
    assert z.grad.tolist() == [[0.0, 0.0, 0.0]]
