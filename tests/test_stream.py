"""Streams and experiences."""

from dataclasses import replace

import pytest
import torch

from holdfast import streams
from holdfast.data import UNLABELLED, Table, View
from holdfast.errors import DataError, UsageError
from holdfast.stream import Experience, Experiences, Stream, spread


def table(*labels: int, x: torch.Tensor | None = None) -> Table:
    return Table({"x": torch.rand(len(labels), 2) if x is None else x, "y": torch.tensor(labels)})


def stream(*class_sets: tuple[int, ...], classes: int = 4) -> Stream:
    return Stream(
        name="made",
        experiences=[
            Experience(k, table(*members, *members), table(*members), members)
            for k, members in enumerate(class_sets)
        ],
        scenario="class",
        classes=classes,
        shape=(2,),
    )


def with_training(train: Table) -> Stream:
    return Stream("made", [Experience(0, train, table(0, 1), (0, 1))], "class", 2, (2,))


def test_a_stream_is_a_sequence_of_its_experiences():
    made = stream((0, 1), (2, 3))
    assert len(made) == 2
    assert [experience.index for experience in made] == [0, 1]
    assert made[1].classes == (2, 3)


def test_seen_classes_come_in_order_of_arrival_and_each_once():
    made = stream((2, 3), (0, 2), (1,))
    assert made.seen_until(0) == (2, 3)
    assert made.seen_until(1) == (2, 3, 0)
    assert made.seen_until(2) == (2, 3, 0, 1)


def test_with_tasks_labels_every_example_with_its_experience():
    made = stream((0, 1), (2, 3))
    tasks = made.with_tasks()
    assert tasks.scenario == "task"
    for experience in tasks:
        assert experience.train["task"].tolist() == [experience.index] * 4
        assert experience.test["task"].tolist() == [experience.index] * 2
    assert "task" not in made[0].train


def test_with_tasks_may_give_every_experience_classes_of_its_own():
    made = replace(stream((0, 1), (0, 1), classes=2), class_names=("cat", "dog"))
    own = made.with_tasks(own_classes=True).validated()
    assert [e.classes for e in own] == [(0, 1), (2, 3)]
    assert own.classes == 4
    assert own[1].train["y"].tolist() == (made[1].train["y"] + 2).tolist()
    assert own[1].test["y"].unique().tolist() == [2, 3]
    assert own[1].train["task"].unique().tolist() == [1]
    assert own.class_names == ("cat, task 0", "dog, task 0", "cat, task 1", "dog, task 1")


def test_a_good_stream_is_returned_as_it_is():
    made = stream((0, 1), (2, 3))
    assert made.validated() is made


def test_a_stream_without_experiences_is_refused():
    with pytest.raises(DataError, match="'made' has no experiences"):
        stream().validated()


def test_an_empty_training_set_is_refused_naming_the_experience():
    empty = Table({"x": torch.zeros(0, 2), "y": torch.zeros(0).long()})
    with pytest.raises(DataError, match="training set of experience 0 of 'made' is empty"):
        with_training(empty).validated()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_inputs_that_are_not_finite_are_refused_naming_the_first_row(bad):
    x = torch.zeros(4, 2)
    x[2, 1] = bad
    x[3, 0] = bad
    with pytest.raises(DataError, match="first in row 2, 2 rows in all"):
        with_training(table(0, 1, 0, 1, x=x)).validated()


@pytest.mark.parametrize(("label", "shown"), [(-1, r"-1\.\.1"), (2, r"0\.\.2")])
def test_labels_out_of_range_are_refused_saying_what_is_accepted(label, shown):
    with pytest.raises(DataError, match=rf"lie in {shown}; accepted: 0\.\.1"):
        with_training(table(0, 1, label)).validated()


def test_ids_number_the_training_examples_of_the_whole_stream() -> None:
    stream = streams.build("split-digits(limit=30)").with_ids()
    ids = torch.cat([experience.train["id"] for experience in stream])
    assert ids.tolist() == list(range(150))


def test_large_but_finite_inputs_are_accepted() -> None:
    stream = streams.build("split-digits(limit=30)")
    large = stream[0].train.with_columns(x=torch.full((30, 1, 8, 8), 3e38))
    part = replace(stream[0], train=large)
    assert not large["x"].sum().isfinite()
    assert replace(stream, experiences=[part, *stream.experiences[1:]]).validated()


def lazily(count: int, made: list[int]) -> Stream:
    def make(index: int) -> Experience:
        made.append(index)
        return Experience(index, table(index % 4), table(index % 4), (index % 4,))

    return Stream("long", Experiences(count, make), "class", 4, (2,))


def test_experiences_are_made_when_they_are_asked_for() -> None:
    made: list[int] = []
    long = lazily(1000, made)
    assert len(long) == 1000
    assert made == []
    assert long[-1].index == 999
    assert [e.index for e in long.experiences[3:6]] == [3, 4, 5]
    assert made == [999, 3, 4, 5]
    with pytest.raises(IndexError):
        long[1000]


def test_seen_classes_are_found_by_going_through_the_stream_once() -> None:
    made: list[int] = []
    long = lazily(1000, made)
    assert long.seen_until(998) == (0, 1, 2, 3)
    assert len(made) == 1000
    assert [long.seen_until(index) for index in (-1, 0, 2)] == [(), (0,), (0, 1, 2)]
    assert long.seen_until(5000) == (0, 1, 2, 3)
    assert len(made) == 1000


def test_evaluations_are_spread_evenly_and_end_with_the_last_experience() -> None:
    assert spread(1000, 3) == (332, 665, 999)
    assert spread(5, None) == spread(5, 5) == ()
    with pytest.raises(UsageError, match="evaluations must be at least 1; given: 0"):
        spread(5, 0)
    scheduled = replace(stream((0, 1), (2, 3)), evaluations=(1,))
    assert [scheduled.validated().evaluated(index) for index in range(2)] == [False, True]
    for wrong in ((0,), (1, 0), (0, 0, 1), (2,)):
        with pytest.raises(DataError, match="in ascending order, 1 the last"):
            replace(stream((0, 1), (2, 3)), evaluations=wrong).validated()


def test_one_bad_row_of_a_shared_table_is_told_where_it_is_drawn_and_not_elsewhere() -> None:
    x = torch.zeros(6, 2)
    x[4, 0] = float("nan")
    whole = table(0, 1, 0, 1, 0, 1, x=x)

    def drawing(*rows: int) -> Stream:
        return with_training(View(whole, torch.tensor(rows)))

    assert drawing(0, 1, 2).validated()
    with pytest.raises(DataError, match="first in row 1, 1 rows in all"):
        drawing(0, 4, 1).validated()


def test_labels_may_lack_only_where_the_stream_says_so() -> None:
    partly = with_training(table(0, UNLABELLED, 1))
    with pytest.raises(DataError, match=r"lie in -100\.\.1"):
        partly.validated()
    said = replace(partly, semi_labelled=True)
    assert said.validated()
    only = said.labelled_only()
    assert not only.semi_labelled
    assert only[0].train["y"].tolist() == [0, 1]
    none = replace(with_training(table(UNLABELLED)), semi_labelled=True)
    with pytest.raises(DataError, match="Experience 0 of 'made' has no example with a label"):
        none.validated().labelled_only()
