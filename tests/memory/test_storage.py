"""Storage policies keep what they say, against references that go row by row."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from holdfast.memory.storage import dissimilar_slots, keep_least, reservoir_slots


def sequential_reservoir(
    kept: list[int], seen: int, rows: int, capacity: int, drawn: Tensor
) -> None:
    """Algorithm R, one row after another, with one uniform number a row."""
    for i in range(rows):
        number = seen + i
        if number < capacity:
            kept[number] = number
        else:
            slot = int(float(drawn[i]) * (number + 1))
            if slot < capacity:
                kept[slot] = number


@given(
    st.integers(1, 12), st.lists(st.integers(1, 15), min_size=1, max_size=8), st.integers(0, 999)
)
def test_the_vectorised_reservoir_equals_algorithm_r_given_the_same_draws(
    capacity: int, batches: list[int], seed: int
) -> None:
    generator, twin = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    held = torch.full((capacity + 1,), -1)
    kept, seen = [-1] * capacity, 0
    for rows in batches:
        slots = reservoir_slots(seen, rows, capacity, generator)
        inside = slots[slots < capacity]
        assert len(inside.unique()) == len(inside), "no slot is written twice in one call"
        held[slots] = torch.arange(seen, seen + rows)
        drawn = torch.zeros(rows, dtype=torch.float64)
        if seen + rows > capacity:
            drawn = torch.rand(rows, generator=twin, dtype=torch.float64)
        sequential_reservoir(kept, seen, rows, capacity, drawn)
        seen += rows
    assert held[:capacity].tolist() == kept


def test_reservoir_keeps_every_example_with_equal_probability() -> None:
    capacity, total, repetitions = 5, 30, 4000
    counts = torch.zeros(total)
    generator = torch.Generator().manual_seed(0)
    for _ in range(repetitions):
        held, seen = torch.zeros(capacity + 1, dtype=torch.long), 0
        for rows in (7, 1, 12, 10):
            held[reservoir_slots(seen, rows, capacity, generator)] = torch.arange(seen, seen + rows)
            seen += rows
        counts[held[:capacity]] += 1
    # Each count is binomial(4000, 1/6); that exactly five are kept only lowers the variance.
    assert counts.sum() == capacity * repetitions
    assert chisquare(counts.numpy()).pvalue > 0.001


class Kept:
    """Rows kept by `keep_least`, call after call."""

    def __init__(self, capacity: int) -> None:
        self.group, self.key = torch.zeros(capacity).long(), torch.zeros(capacity).double()
        self.row = torch.full((capacity + 1,), -1)
        self.stored = self.seen = 0

    def offer(self, group: Tensor, key: Tensor) -> None:
        capacity = len(self.key)
        slots, order = keep_least(self.group, self.key, self.stored, group, key)
        assert sorted(order.tolist()) == list(range(len(group)))
        inside = slots < capacity
        assert len(slots[inside].unique()) == int(inside.sum())
        self.row[slots] = order + self.seen
        self.group[slots[inside]] = group[order][inside]
        self.key[slots[inside]] = key[order][inside]
        self.seen += len(group)
        self.stored = min(capacity, self.stored + len(group))

    @property
    def counts(self) -> list[int]:
        return torch.bincount(self.group[: self.stored]).tolist()


def water_level(sizes: list[int], capacity: int) -> list[int]:
    """Equal shares: fill one row a group in turn until the capacity or the groups are used up."""
    filled = [0] * len(sizes)
    while sum(filled) < min(capacity, sum(sizes)):
        for group, size in enumerate(sizes):
            if filled[group] < size and sum(filled) < capacity:
                filled[group] += 1
    return filled


@given(st.integers(1, 20), st.lists(st.integers(0, 25), min_size=1, max_size=5), st.integers(0, 99))
def test_a_balanced_buffer_fills_its_groups_like_water(
    capacity: int, sizes: list[int], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    everything = torch.tensor([g for g, size in enumerate(sizes) for _ in range(size)]).long()
    everything = everything[torch.randperm(len(everything), generator=generator)]
    kept = Kept(capacity)
    for part in everything.split(7):
        if len(part):
            kept.offer(part, torch.rand(len(part), generator=generator, dtype=torch.float64))
    counts = kept.counts + [0] * (len(sizes) - len(kept.counts))
    # Where the shares do not divide evenly, which group has the odd row depends on the order.
    expected = water_level(sizes, capacity)
    assert sorted(counts) == sorted(expected)
    assert all(abs(a - b) <= 1 for a, b in zip(counts, expected, strict=True))


def test_new_classes_take_room_from_the_largest() -> None:
    kept = Kept(12)
    for label, size, expected in [(0, 20, [12]), (1, 20, [6, 6]), (2, 3, [5, 4, 3])]:
        kept.offer(torch.full((size,), label), torch.rand(size, dtype=torch.float64))
        assert sorted(kept.counts) == sorted(expected)


def test_within_a_group_the_rows_of_least_key_stay() -> None:
    generator = torch.Generator().manual_seed(3)
    group = torch.randint(3, (60,), generator=generator)
    key = torch.rand(60, generator=generator, dtype=torch.float64)
    kept = Kept(12)
    for rows in torch.arange(60).split(11):
        kept.offer(group[rows], key[rows])
    for label in range(3):
        members = (group == label).nonzero().flatten()
        best = members[key[members].argsort()][: kept.counts[label]]
        held = kept.row[:12][kept.group == label]
        assert sorted(held.tolist()) == sorted(best.tolist())


def test_each_class_of_a_balanced_buffer_is_a_uniform_sample_of_its_class() -> None:
    """Also when the room of the class shrinks while it still receives rows."""
    group = torch.tensor([0] * 12 + [1] * 4 + [0] * 8 + [1] * 16)
    counts = torch.zeros(len(group))
    generator = torch.Generator().manual_seed(1)
    for _ in range(1500):
        kept, at = Kept(6), 0
        for rows in (9, 7, 5, 19):
            key = torch.rand(rows, generator=generator, dtype=torch.float64)
            kept.offer(group[at : at + rows], key)
            at += rows
        assert kept.counts == [3, 3]
        counts[kept.row[:6]] += 1
    for label in (0, 1):
        assert chisquare(counts[group == label].numpy()).pvalue > 0.001


@pytest.mark.parametrize("rows", [1, 5, 50])
def test_a_batch_may_be_smaller_or_larger_than_the_buffer(rows: int) -> None:
    kept = Kept(5)
    for start in range(0, 50, rows):
        key = torch.arange(start, start + rows, dtype=torch.float64)
        kept.offer(torch.zeros(rows).long(), key)
    assert sorted(kept.row[:5].tolist()) == [0, 1, 2, 3, 4]


def test_infinite_keys_are_kept_last() -> None:
    kept = Kept(2)
    kept.offer(torch.zeros(3).long(), torch.tensor([math.inf, 1.0, 0.5]).double())
    assert sorted(kept.row[:2].tolist()) == [1, 2]


def test_dissimilar_rows_take_free_slots_first_whatever_they_are(
    generator: torch.Generator,
) -> None:
    score, no = torch.full((3,), 2.0), torch.zeros(3, dtype=torch.bool)
    slots = dissimilar_slots(torch.ones(4), 6, score, no, generator)
    assert slots.tolist() == [4, 5, 6], "slot 6 is past the end: the third is not kept"
    assert dissimilar_slots(torch.ones(0), 2, score, ~no, generator).tolist() == [0, 1, 2]


def test_a_dissimilar_row_draws_a_slot_by_its_score_and_takes_it_by_both(
    generator: torch.Generator,
) -> None:
    held, score, trials = torch.tensor([0.5, 1.0, 2.0, 0.0]), 0.8, 3000
    counts = torch.zeros(5)
    for _ in range(trials):
        (slot,) = dissimilar_slots(
            held, 4, torch.tensor([score]), torch.ones(1, dtype=torch.bool), generator
        )
        counts[slot] += 1
    taken = [float(c) / 3.5 * float(c) / (float(c) + score) for c in held]
    assert counts[3] == 0
    expected = torch.tensor([*taken[:3], 1 - sum(taken)]) * trials
    found = torch.cat([counts[:3], counts[4:]])
    assert (
        chisquare(found.numpy(), expected.numpy() * (trials / float(expected.sum()))).pvalue > 1e-3
    )


def test_rows_of_one_call_take_different_slots_and_only_where_they_may(
    generator: torch.Generator,
) -> None:
    held, score = torch.ones(8), torch.zeros(6)
    may = torch.tensor([True, False, True, True, False, True])
    for _ in range(50):
        slots = dissimilar_slots(held, 8, score, may, generator)
        assert slots[~may].tolist() == [8, 8], "not kept"
        assert len(set(slots[may].tolist())) == 4, "a score of 0 always takes its slot"
        assert int(slots[may].max()) < 8


def test_more_rows_than_are_held_are_left_out(generator: torch.Generator) -> None:
    slots = dissimilar_slots(torch.ones(2), 2, torch.zeros(5), torch.ones(5).bool(), generator)
    assert sorted(slots[:2].tolist()) == [0, 1]
    assert slots[2:].tolist() == [2, 2, 2]
