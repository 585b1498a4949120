"""Weights that follow, and weights put back: closed forms and frequencies."""

import pytest
import torch

from holdfast.optim.averages import follow, put_back


def test_an_average_follows_the_closed_form():
    alpha, slow = 0.9, [torch.tensor([2.0, -1.0]), torch.zeros(3)]
    path = [[torch.full((2,), float(k)), torch.full((3,), float(k) ** 2)] for k in range(1, 8)]
    for fast in path:
        follow(slow, fast, alpha)
    for place, start in enumerate((torch.tensor([2.0, -1.0]), torch.zeros(3))):
        weights = [(1 - alpha) * alpha ** (len(path) - k) for k in range(1, len(path) + 1)]
        expected = alpha ** len(path) * start
        expected = expected + sum(w * f[place] for w, f in zip(weights, path, strict=True))
        torch.testing.assert_close(slow[place], expected)


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_none_or_all_are_put_back_to_the_last_bit(chance, generator):
    tensors = [torch.randn(50, 3) * 1e-3, torch.randn(7) * 1e3]
    source = [torch.randn(50, 3), torch.randn(7) * 1e-6]
    before = [t.clone() for t in tensors]
    put_back(tensors, source, chance, generator)
    expected = source if chance else before
    assert all(torch.equal(a, b) for a, b in zip(tensors, expected, strict=True))


def test_entries_are_put_back_one_by_one_with_the_chance_given(generator):
    tensors = [torch.ones(300, 200), torch.ones(20000)]
    put_back(tensors, [torch.full_like(t, 0.3) for t in tensors], 0.01, generator)
    for tensor in tensors:
        values = tensor.flatten()
        assert set(values.tolist()) == {1.0, torch.tensor(0.3).item()}
        share = float((values != 1).float().mean())
        # Four standard deviations of a binomial share.
        assert abs(share - 0.01) < 4 * (0.01 * 0.99 / len(values)) ** 0.5
    rows = (tensors[0] != 1).any(1).float().mean()
    assert float(rows) == pytest.approx(1 - 0.99**200, abs=0.1)  # not row by row


def test_every_call_draws_anew_and_seeds_repeat_it():
    def drawn(seed, calls):
        generator, masks = torch.Generator().manual_seed(seed), []
        for _ in range(calls):
            tensor = [torch.ones(1000)]
            put_back(tensor, [torch.zeros(1000)], 0.5, generator)
            masks.append(tensor[0])
        return masks

    first, again = drawn(0, 2), drawn(0, 2)
    assert not torch.equal(first[0], first[1])
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
