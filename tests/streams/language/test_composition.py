"""Abilities composed into stages."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.data import Table
from holdfast.errors import DataError, UsageError
from holdfast.streams.language.composition import STRATEGIES, stages, subset


def text(rows, start=0, width=4, **columns):
    ids = torch.arange(start, start + rows)[:, None].expand(rows, width).contiguous()
    labels = ids.clone()
    labels[:, 0] = -100
    return Table({"input_ids": ids, "labels": labels, **columns})


@pytest.fixture
def sets():
    return {"math": text(64), "code": text(32, 1000)}, text(48, 2000)


def contents(stage):
    return sorted(stage.table["input_ids"][:, 0].tolist())


def span(*pairs):
    return sorted(n for start, rows in pairs for n in range(start, start + rows))


MATH, CODE, CHAT = (0, 64), (1000, 32), (2000, 48)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("individual", [[MATH], [CODE], [CHAT]]),
        ("multi-task", [[MATH, CODE, CHAT]]),
        ("sequential", [[MATH], [CODE], [CHAT]]),
        ("mixed-sequential", [[MATH, CODE], [CHAT]]),
    ],
)
def test_stages_hold_the_sets_of_their_strategy(strategy, expected, sets):
    found = stages(strategy, *sets)
    assert [contents(stage) for stage in found] == [span(*parts) for parts in expected]
    from_base = [True, True, True] if strategy == "individual" else [True, False, False]
    assert [stage.from_base for stage in found] == from_base[: len(found)]


def test_dmt_brings_a_share_of_the_first_stage_back_beside_the_general_set(sets):
    first, second = stages("dmt", *sets, k=1 / 8)
    assert contents(first) == span(MATH, CODE)
    assert second.examples == {"math": 8, "code": 4, "general": 48}
    assert set(contents(second)) - set(span(CHAT)) <= set(contents(first))
    assert second.name == "general+1/8 of math+code"


def test_dmt_without_a_share_is_mixed_sequential_and_with_all_of_it_has_all_twice(sets):
    none, mixed = stages("dmt", *sets, k=0), stages("mixed-sequential", *sets)
    assert [contents(a) == contents(b) for a, b in zip(none, mixed, strict=True)] == [True, True]
    whole = stages("dmt", *sets, k=1)
    assert contents(whole[1]) == span(MATH, CODE, CHAT)


def test_the_reverse_has_the_general_set_first_and_a_share_of_it_after(sets):
    first, second = stages("dmt-reverse", *sets, k=1 / 8)
    assert contents(first) == span(CHAT)
    assert second.examples == {"math": 64, "code": 32, "general": 6}


@given(
    rows=st.integers(1, 300),
    fractions=st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)),
    seed=st.integers(0, 9),
)
def test_smaller_shares_are_subsets_of_larger_ones(rows, fractions, seed):
    few, many = sorted(fractions)
    table = text(rows)
    smaller, larger = (subset(table, f, seed, "math")["input_ids"][:, 0] for f in (few, many))
    assert set(smaller.tolist()) <= set(larger.tolist())
    assert len(smaller) == max(1, round(few * rows))


def test_shares_follow_the_seed_and_the_name_of_the_source():
    table = text(100)
    draws = {
        tuple(subset(table, 0.1, seed, name)["input_ids"][:, 0].tolist())
        for seed, name in ((0, "math"), (1, "math"), (0, "code"))
    }
    assert len(draws) == 3


def test_sources_and_ids_lead_back_to_the_example(sets):
    special, general = sets
    tables = [*special.values(), general]
    for stage in stages("dmt", special, general, k=1 / 4):
        for row in range(len(stage.table)):
            source, place = (int(stage.table[name][row]) for name in ("source", "id"))
            assert torch.equal(tables[source]["input_ids"][place], stage.table["input_ids"][row])


def test_ids_that_examples_bring_are_kept():
    special = {"math": text(4, id=torch.tensor([40, 41, 42, 43]))}
    first, _ = stages("dmt", special, text(2))
    assert first.table["id"].tolist() == [40, 41, 42, 43]


def test_labelled_tokens_are_counted_by_source(sets):
    assert stages("multi-task", *sets)[0].tokens == {"math": 192, "code": 96, "general": 144}
    bare = {"math": Table({"x": torch.zeros(3, 2)})}
    with pytest.raises(DataError, match="no 'labels'"):
        _ = stages("individual", bare, Table({"x": torch.zeros(3, 2)}))[0].tokens


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rows_of_different_widths_are_padded(strategy, sets):
    special, _ = sets
    for stage in stages(strategy, special, text(8, width=9), k=0.5):
        assert stage.table["input_ids"].shape[1] in (4, 9)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("dtm", {"a": text(2)}, text(2)), "Did you mean 'dmt'"),
        (("dmt", {}, text(2)), "At least one specialised set"),
        (("dmt", {"general": text(2)}, text(2)), "rename one"),
        (("dmt", {"a": text(2)}, text(2), 1.5), "between 0 and 1; given: 1.5"),
    ],
)
def test_what_makes_no_stages_is_named(arguments, sentence):
    with pytest.raises(UsageError, match=sentence):
        stages(*arguments)
