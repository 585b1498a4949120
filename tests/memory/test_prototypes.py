"""Class prototypes."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.memory.prototypes import Prototypes


def examples(seed=0, rows=60):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 4, generator=generator), torch.randint(3, (rows,), generator=generator)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.lists(st.integers(0, 60), max_size=4))
def test_means_do_not_depend_on_how_the_examples_were_portioned(seed, cuts):
    x, y = examples(seed)
    prototypes = Prototypes(4, 3)
    edges = [0, *sorted(cuts), 60]
    for start, stop in pairwise(edges):
        prototypes.add(x[start:stop], y[start:stop])
    for label in range(3):
        torch.testing.assert_close(
            prototypes.means[label], x[y == label].mean(0), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("normalise", [False, True])
def test_logits_are_negative_squared_distances_to_the_means(normalise):
    x, y = examples()
    prototypes = Prototypes(4, 3, normalise)
    prototypes.add(x, y)
    query = examples(1)[0]
    rows, asked = (F.normalize(x), F.normalize(query)) if normalise else (x, query)
    for label in range(3):
        mean = rows[y == label].mean(0)
        mean = F.normalize(mean, dim=0) if normalise else mean
        expected = -((asked - mean) ** 2).sum(1)
        torch.testing.assert_close(prototypes(query)[:, label], expected, rtol=1e-4, atol=1e-5)


def test_directions_alone_count_when_normalised():
    x, y = examples()
    one, other = Prototypes(4, 3, normalise=True), Prototypes(4, 3, normalise=True)
    one.add(x, y)
    other.add(x * torch.rand(60, 1).add(0.5), y)
    torch.testing.assert_close(one(x), other(x * 3))


def test_a_class_without_examples_is_never_nearest():
    prototypes = Prototypes(2, 3)
    prototypes.add(torch.tensor([[5.0, 5.0]]), torch.tensor([1]))
    logits = prototypes(torch.zeros(1, 2))
    assert logits.argmax(1).tolist() == [1]
    assert logits[0, [0, 2]].tolist() == [-torch.inf, -torch.inf]


def test_clearing_forgets_all():
    prototypes = Prototypes(4, 3)
    prototypes.add(*examples())
    prototypes.clear()
    assert not prototypes.sums.any()
    assert not prototypes.counts.any()


def test_a_restored_store_goes_on_where_it_was():
    x, y = examples()
    whole, first, second = (Prototypes(4, 3) for _ in range(3))
    whole.add(x[:30], y[:30])
    whole.add(x[30:], y[30:])
    first.add(x[:30], y[:30])
    second.load_state_dict(first.state_dict())
    second.add(x[30:], y[30:])
    assert torch.equal(second.means, whole.means)
