"""Herding chooses, at every step, the example that a search over all of them would choose."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.memory.herding import herding_order, herding_rank


def brute_force(features: torch.Tensor, count: int) -> list[int]:
    mean, chosen = features.mean(0), []
    for _ in range(count):
        rest = [i for i in range(len(features)) if i not in chosen]
        distances = [(mean - features[[*chosen, i]].mean(0)).norm().item() for i in rest]
        chosen.append(rest[distances.index(min(distances))])
    return chosen


@given(st.integers(3, 12), st.integers(0, 999))  # of two, both are equally far from the mean
def test_herding_order_is_that_of_an_exhaustive_search(examples: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(examples, 4, generator=draw, dtype=torch.float64)
    count = max(1, examples // 2)
    assert herding_order(features, count).tolist() == brute_force(features, count)


def test_a_shorter_order_is_the_beginning_of_a_longer_one() -> None:
    features = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(herding_order(features, 5), herding_order(features, 15)[:5])


def test_herded_examples_summarise_better_than_random_ones() -> None:
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(200, 8, generator=draw)
    herded = features[herding_order(features, 10)].mean(0)
    random = features[torch.randperm(200, generator=draw)[:10]].mean(0)
    assert (herded - features.mean(0)).norm() < 0.2 * (random - features.mean(0)).norm()


def test_ranks_are_places_within_the_class_and_infinite_past_the_count() -> None:
    draw = torch.Generator().manual_seed(1)
    features = torch.randn(9, 3, generator=draw, dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 1, 0, 0, 1, 2, 0])
    rank = herding_rank(features, labels, 3)
    for label in range(3):
        members = (labels == label).nonzero().flatten()
        count = min(3, len(members))
        order = brute_force(features[members], count)
        assert rank[members[order]].tolist() == list(range(count))
        assert rank[members].isinf().sum() == len(members) - count
