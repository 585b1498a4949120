"""Streams and experiences."""

from dataclasses import replace

import pytest
import torch

from holdfast import streams
from holdfast.data import Table
from holdfast.errors import DataError
from holdfast.stream import Experience, Stream


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
