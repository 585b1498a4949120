"""From counts to streams: what is drawn, in what order, and that nothing is copied."""

from __future__ import annotations

import gc
from itertools import pairwise

import pytest
import torch

from holdfast import streams
from holdfast.data import Table, View
from holdfast.errors import DataError, UsageError
from holdfast.streams.generator import Pool, by_class, by_task, drawn
from holdfast.streams.recipes import permuted
from holdfast.streams.source import Source


def made(per_class: int = 20, classes: int = 4, test: int = 3) -> Source:
    """A source whose inputs are their own row numbers."""
    y = torch.arange(classes).repeat_interleave(per_class)
    table = Table({"x": torch.arange(len(y)).float()[:, None], "y": y})
    held = torch.arange(classes).repeat_interleave(test)
    tested = Table({"x": -torch.arange(len(held)).float()[:, None] - 1, "y": held})
    names = tuple(f"class {c}" for c in range(classes))
    return Source("made", table, tested, names, ((0.0,), (1.0,)))


def rows(table: Table) -> list[int]:
    return table["x"].flatten().long().tolist()


def test_experiences_have_the_counts_asked_for() -> None:
    counts = torch.tensor([[3, 0, 2, 0], [0, 0, 1, 5], [4, 1, 0, 0]])
    stream = by_class(made(), counts, "s", 0)
    names = [stream.class_names[c] for c in range(4)]
    for experience, wanted in zip(stream, counts.tolist(), strict=True):
        found = experience.train["y"].bincount(minlength=4).tolist()
        named = dict(zip(names, found, strict=True))
        assert [named[f"class {c}"] for c in range(4)] == wanted
        # Rows are those of the class that the label stands for.
        given = made().train["y"][rows(experience.train)]
        shown = [f"class {int(c)}" for c in given]
        assert shown == [names[c] for c in experience.train["y"].tolist()]


def test_labels_are_numbered_by_arrival_and_what_never_comes_is_last() -> None:
    counts = torch.tensor([[0, 0, 2, 0], [1, 0, 1, 0], [0, 0, 0, 1]])
    stream = by_class(made(), counts, "s", 0)
    assert stream.class_names == ("class 2", "class 0", "class 3", "class 1")
    assert [e.classes for e in stream] == [(0,), (0, 1), (2,)]
    assert [(t.name, t.since) for t in stream.tests] == [
        ("class 2", 0),
        ("class 0", 1),
        ("class 3", 2),
        ("class 1", 3),
    ]


def test_a_deck_shows_every_example_once_before_any_comes_again() -> None:
    counts = torch.full((8, 2), 5)
    stream = by_class(made(20, 2), counts, "s", 1)
    shown = torch.tensor([rows(e.train) for e in stream])
    for half in (shown[:4], shown[4:]):  # 4 x 5 of each class are all of them
        assert sorted(half.flatten().tolist()) == list(range(40))
    assert not torch.equal(shown[:4].sort(1).values, shown[4:].sort(1).values)


def test_fresh_draws_know_nothing_of_each_other() -> None:
    counts = torch.full((200, 2), 5)
    stream = by_class(made(20, 2), counts, "s", 1, draws="fresh")
    shown = torch.cat([torch.tensor(rows(e.train)) for e in stream])
    assert all(len(set(rows(e.train))) == 10 for e in stream)  # within one, without replacement
    # 200 draws of a quarter: 50 times each, with a deviation of 6.1.
    assert shown.bincount(minlength=40).tolist() == pytest.approx([50] * 40, abs=5 * 6.1)


def test_what_is_drawn_depends_on_the_seed_and_the_place_alone() -> None:
    counts = torch.tensor([[5, 5], [3, 7], [2, 2]])
    first, again, other = (by_class(made(20, 2), counts, "s", seed) for seed in (4, 4, 5))
    assert rows(first[2].train) == rows(again[2].train) == rows(first[2].train)
    assert rows(first[1].train) != rows(other[1].train)
    shorter = by_class(made(20, 2), counts[:2], "s", 4)
    assert rows(shorter[1].train) == rows(first[1].train)


@pytest.mark.parametrize("draws", ["deck", "fresh"])
def test_rows_come_in_a_random_order(draws) -> None:
    pool = Pool.by(made(100, 2).train, made(100, 2).train["y"], 2)
    counts = torch.tensor([[100, 100]])
    found = drawn(pool, counts, torch.zeros_like(counts), 0, 0, draws)
    first_half = (found[:100] < 100).sum()
    assert 30 < int(first_half) < 70
    assert found[:100].diff().lt(0).any()


def test_test_sets_of_an_experience_are_those_of_its_classes() -> None:
    stream = by_class(made(), torch.tensor([[1, 0, 1, 0], [0, 1, 0, 1]]), "s", 0)
    for experience in stream:
        assert sorted(experience.test["y"].unique().tolist()) == list(experience.classes)
        assert len(experience.test) == 6
    assert sorted(r for t in stream.tests for r in rows(t.table)) == list(range(-12, 0))


def test_a_thousand_experiences_hold_one_table() -> None:
    source = made(50, 10)
    stream = by_class(source, torch.full((1000, 10), 50), "s", 0).validated()
    tables = {id(e.train.whole) for e in stream} | {id(e.test.whole) for e in stream}
    assert len(tables) == 2
    gc.collect()
    views = [o for o in gc.get_objects() if issubclass(type(o), View)]
    assert len(views) <= 10 + len(stream.tests)  # those of the test sets; the others are gone
    assert stream[999].train.whole is stream[0].train.whole


def test_tasks_are_mixed_by_their_rows() -> None:
    tasks = permuted(made(30, 2), "p", 0, 3, "permuted")
    counts = torch.tensor([[10, 0, 0], [4, 6, 0], [0, 5, 5]])
    stream = by_task(tasks, counts, "mix", 0)
    starts = [0, 60, 120, 180]
    for experience, wanted in zip(stream, counts.tolist(), strict=True):
        place = experience.train.rows
        found = [int(((place >= a) & (place < b)).sum()) for a, b in pairwise(starts)]
        assert found == wanted
    assert [t.since for t in stream.tests] == [0, 1, 2]
    assert stream.scenario == "domain"


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([[21, 0, 0, 0]], r"asks for 21 examples of group 0, which has 20"),
        ([[0, 0, 0, 0]], "needs an example"),
        ([[1, -1, 0, 0]], "needs an example, and none less than 0"),
        ([[1, 1]], r"4 columns; given: torch.int64 of shape \(1, 2\)"),
        ([[0.5, 1, 1, 1]], "whole numbers"),
    ],
)
def test_counts_that_cannot_be_drawn_are_refused(counts, message) -> None:
    with pytest.raises(UsageError, match=message):
        by_class(made(), torch.tensor(counts), "s", 0)


def test_draws_are_a_deck_or_fresh() -> None:
    with pytest.raises(UsageError, match="draws must be deck or fresh; given: 'new'"):
        by_class(made(), torch.ones(1, 4).long(), "s", 0, draws="new")


def test_a_class_that_cannot_be_tested_is_named() -> None:
    source = made()
    short = Source(
        "made",
        source.train,
        source.test.where(source.test["y"] != 2),
        source.class_names,
        source.scale,
    )
    with pytest.raises(DataError, match="no test example of 'class 2'"):
        by_class(short, torch.ones(1, 4).long(), "s", 0)


def test_what_changes_inputs_is_done_once_and_to_training_inputs_alone() -> None:
    called = []

    def change(index: int, x: torch.Tensor) -> torch.Tensor:
        called.append(index)
        return x + 1000 * (index + 1)

    stream = by_class(made(), torch.full((3, 4), 5), "s", 0, change=change).validated()
    assert called == []
    plain = by_class(made(), torch.full((3, 4), 5), "s", 0)
    train = stream[1].train
    assert len(train) == 20
    assert rows(train) == [row + 2000 for row in rows(plain[1].train)]
    assert train[torch.tensor([0])]["x"].item() == rows(train)[0]
    assert torch.equal(train["y"], plain[1].train["y"])
    assert called == [1]
    assert rows(stream[1].test) == rows(plain[1].test)
    joined = Table.concat([stream[0].train, stream[1].train])
    assert rows(joined)[20:] == rows(train)


def test_labels_are_taken_from_the_same_examples_whenever_they_come() -> None:
    stream = by_class(made(20, 2), torch.full((10, 2), 10), "s", 0, labels=0.25).validated()
    assert stream.semi_labelled
    shown = {}
    for experience in stream:
        for row, label in zip(rows(experience.train), experience.train["y"].tolist(), strict=True):
            assert shown.setdefault(row, label) == label
    known = [label for label in shown.values() if label >= 0]
    assert sorted(known) == [0] * 5 + [1] * 5
    assert all(int(t.table["y"].min()) >= 0 for t in stream.tests)


def test_evaluations_are_spread_and_end_with_the_last() -> None:
    stream = by_class(made(), torch.ones(100, 4).long(), "s", 0, evaluations=4)
    assert stream.evaluations == (24, 49, 74, 99)
    assert by_class(made(), torch.ones(3, 4).long(), "s", 0, evaluations=4).evaluations == ()


def test_streams_of_ones_own_counts_and_recipes_are_built_in_python() -> None:
    x, y = torch.rand(60, 4), torch.arange(60) % 3
    stream = streams.occurring([[4, 0, 2], [0, 5, 0]], (x, y))
    assert [len(e.train) for e in stream] == [6, 5]
    assert streams.made("blurry", (x, y), experiences=3, online=False).online is False
    with pytest.raises(UsageError, match=r"no recipe 'recuring'\. Did you mean 'recurring'"):
        streams.made("recuring", (x, y))
    with pytest.raises(UsageError, match="no argument 'clases'"):
        streams.made("recurring", (x, y), clases=2)
