"""Drawing examples so that classes keep their shares."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.data import Table
from holdfast.streams.sampling import held_out, shuffled_place, stratified

labels = st.lists(st.integers(0, 4), min_size=1, max_size=80).map(torch.tensor)


def table(y: torch.Tensor) -> Table:
    return Table({"y": y, "row": torch.arange(len(y))})


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(deadline=None)
@given(labels, st.integers(1, 100))
def test_rows_are_shared_out_one_by_one_to_the_class_with_the_least_of_its_own(y, limit):
    sizes = y.bincount().double()
    drawn = stratified(table(y), limit, seeded())["y"].bincount(minlength=len(sizes))
    assert int(drawn.sum()) == min(limit, len(y))
    # No class was given its last row while another had a smaller part of its own.
    present = sizes > 0
    last = ((drawn - 1) / sizes)[present & (drawn > 0)].max()
    waiting = (drawn / sizes)[present & (drawn < sizes)]
    assert not len(waiting) or last <= waiting.min()


def test_equal_classes_have_equal_numbers():
    drawn = stratified(table(torch.arange(1000) % 10), 250, seeded())
    assert drawn["y"].bincount().tolist() == [25] * 10


@settings(deadline=None)
@given(labels, st.integers(1, 100))
def test_every_class_is_there_as_long_as_there_is_room(y, limit):
    drawn = stratified(table(y), limit, seeded())
    assert len(drawn["y"].unique()) == min(len(y.unique()), limit)


@settings(deadline=None)
@given(labels, st.integers(1, 100))
def test_rows_are_drawn_once_and_keep_their_order(y, limit):
    rows = stratified(table(y), limit, seeded())["row"]
    assert bool((rows.diff() > 0).all())


def test_every_example_of_a_class_is_drawn_equally_often():
    y = torch.tensor([0] * 8 + [1] * 4)
    counts = torch.zeros(12)
    generator = seeded()
    for _ in range(2000):
        counts[stratified(table(y), 6, generator)["row"]] += 1
    # Each with probability a half: 1000 each, deviation 22.
    assert bool(((counts - 1000).abs() < 5 * 22).all())


@settings(deadline=None)
@given(labels)
def test_held_out_parts_are_a_partition_with_every_large_class_in_both(y):
    train, test = held_out(table(y), seed=0)
    rows = torch.cat([train["row"], test["row"]])
    assert rows.sort().values.tolist() == list(range(len(y)))
    for label, count in enumerate(y.bincount().tolist()):
        tested = int((test["y"] == label).sum())
        if count < 2:
            assert tested == 0
        else:
            assert 1 <= tested < count
            assert abs(tested - count / 5) <= 0.8


def test_a_fifth_of_each_class_is_held_out():
    train, test = held_out(table(torch.tensor([0] * 100 + [1] * 50)), seed=1)
    assert train["y"].bincount().tolist() == [80, 40]
    assert test["y"].bincount().tolist() == [20, 10]


def test_what_is_held_out_depends_on_the_seed_alone():
    y = torch.arange(100) % 3
    first, again, other = (held_out(table(y), seed)[1]["row"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_places_number_the_examples_of_each_class():
    y = torch.tensor([1, 0, 1, 1, 0])
    place = shuffled_place(y, seeded())
    assert sorted(place[y == 0].tolist()) == [0, 1]
    assert sorted(place[y == 1].tolist()) == [0, 1, 2]
