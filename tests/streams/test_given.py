"""Streams from data at hand in Python."""

import numpy as np
import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from holdfast import streams
from holdfast.data import Table
from holdfast.errors import DataError, UsageError

X, Y = torch.rand(60, 1, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 6


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        (X.numpy(), Y.numpy()),
        TensorDataset(X, Y),
        Table({"x": X, "y": Y}),
        [{"x": x, "y": y} for x, y in zip(X, Y, strict=True)],
    ],
    ids=["tensors", "arrays", "dataset", "table", "dictionaries"],
)
def test_all_forms_of_the_same_data_make_the_same_stream(data):
    stream = streams.split(data, data, experiences=3, seed=1)
    expected = streams.split((X, Y), (X, Y), experiences=3, seed=1)
    for experience, same in zip(stream, expected, strict=True):
        assert torch.equal(experience.train["x"], same.train["x"])
        assert torch.equal(experience.test["y"], same.test["y"])


def test_without_a_test_set_a_fifth_of_each_class_is_held_out():
    stream = streams.split((X, Y), experiences=3)
    assert [len(e.train) for e in stream] == [16] * 3
    assert [len(e.test) for e in stream] == [4] * 3


def test_a_subset_of_a_dataset_with_some_classes_is_renumbered_and_names_follow():
    whole = TensorDataset(X, Y)
    odd = Subset(whole, [row for row in range(60) if Y[row] % 2])
    stream = streams.split(odd, experiences=3, order="natural", class_names="abcdef")
    assert stream.class_names == ("b", "d", "f")
    assert [experience.classes for experience in stream] == [(0,), (1,), (2,)]


def test_string_labels_may_come_in_an_array():
    names = np.array(["d", "b", "a", "c", "f", "e"])[Y.numpy()]
    stream = streams.permuted((X, names), experiences=2)
    assert stream.class_names == tuple("abcdef")


def test_further_columns_travel_with_their_examples():
    table = Table({"x": X, "y": Y, "row": torch.arange(60)})
    for experience in streams.split(table, table, experiences=2):
        assert torch.equal(experience.train["x"], X[experience.train["row"]])


def test_the_type_of_inputs_is_kept():
    whole = (X * 255).to(torch.uint8)
    for made in (streams.split, streams.permuted, streams.rotated):
        assert made((whole, Y), experiences=2)[1].train["x"].dtype == torch.uint8
    assert streams.split((torch.arange(60).view(60, 1), Y))[0].train["x"].dtype == torch.int64


def test_recipes_take_their_arguments_by_name():
    assert streams.split((X, Y), experiences=2, scenario="task", online=True).online
    assert streams.split((X, Y), experiences=2, scenario="task").scenario == "task"
    assert len(streams.permuted((X, Y), experiences=2, first="permuted", limit=12)[1].train) == 12
    names = [experience.name for experience in streams.rotated((X, Y), experiences=2, step=30)]
    assert names == ["0 degrees", "30 degrees"]
    assert streams.rotated((X, Y), name="mine").name == "mine"


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (Table({"x": X}), None, "The training data lack the column 'y'; they have: x"),
        ((X, Y), Table({"y": Y}), "The test data lack the column 'x'"),
        ((X[:0], Y[:0]), None, "inputs of the training data are empty"),
        ((X, Y[:5]), None, r"the training data has 60 inputs and labels of shape \(5,\)"),
        ((X, Y - 1), None, r"lie in -1\.\.4"),
        ((X, Y + 0.5), None, "label in row 0 of the training data is 0.5"),
        ((X, Y), (X, Y + 1), r"test label 6 \(row 5 of the test data\)"),
        ((X, Y), (X[:, :, :3], Y), "accepted: the same in both"),
        ((X.masked_fill(X > 0.99, torch.nan), Y), None, "training data hold NaN"),
        ((X, torch.zeros(60)), None, r"'split' has a single class \(0\)"),
    ],
)
def test_data_that_cannot_be_learned_are_refused(train, test, message):
    with pytest.raises(DataError, match=message):
        streams.split(train, test)


def test_more_experiences_than_classes_are_refused():
    with pytest.raises(UsageError, match="6 classes, so it splits into 1 to 6 experiences"):
        streams.split((X, Y), experiences=7)
