"""Labels and inputs as they come, and as they are learned from."""

import numpy as np
import pytest
import torch

from holdfast.data import Table
from holdfast.errors import DataError
from holdfast.streams.labels import Part, assemble, inputs


def part(labels, where="the file", x=None) -> Part:
    rows = len(np.asarray(labels))
    return Part(where, Table({"x": torch.rand(rows, 2) if x is None else x}), np.asarray(labels))


def test_string_labels_become_classes_in_sorted_order():
    source = assemble("made", part(["pear", "apple", "pear"]), part(["apple"]))
    assert source.class_names == ("apple", "pear")
    assert source.train["y"].tolist() == [1, 0, 1]
    assert source.test["y"].tolist() == [0]


def test_whole_numbers_keep_their_order_and_name_themselves():
    source = assemble("made", part([10, 2, 10]), part([2, 10]))
    assert source.class_names == ("2", "10")
    assert source.train["y"].tolist() == [1, 0, 1]


def test_given_names_go_with_their_labels_even_if_some_do_not_occur():
    source = assemble("made", part([0, 2]), part([2]), class_names=("a", "b", "c"))
    assert source.class_names == ("a", "c")
    assert source.test["y"].tolist() == [1]


@pytest.mark.parametrize("labels", [[0.0, 1.0], [[0], [1]], [False, True], np.array([0, 1], "u1")])
def test_labels_that_are_whole_numbers_in_other_forms_are_read(labels):
    assert assemble("made", part(labels), part([1, 0])).train["y"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([0, -1], [0], r"labels of the file lie in -1\.\.0; accepted: whole numbers from 0"),
        ([0, 1.5], [0], r"label in row 1 of the file is 1.5; accepted: whole numbers"),
        ([0, float("nan")], [0], r"label in row 1 of the file is nan"),
        ([0, 1], [1, 7], r"test label 7 \(row 1 of the test file\) occurs in no training"),
        (["a", "b"], ["b", "aa"], r"test label 'aa' \(row 1 of the test file\)"),
        (["a", "b"], [0], "are strings, those of the test file numbers"),
        ([[0, 1], [1, 0]], [0], r"2 inputs and labels of shape \(2, 2\)"),
        (np.array(["a", 3], dtype=object), [0], r"label in row 1 of the file is 3"),
        (np.array([1j, 2j]), [0], "of type complex128"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused_with_their_place(train, test, message):
    with pytest.raises(DataError, match=message):
        assemble("made", part(train), part(test, "the test file"))


def test_labels_beyond_the_given_names_are_refused():
    with pytest.raises(DataError, match=r"lie in 0\.\.2; accepted: whole numbers 0\.\.1"):
        assemble("made", part([0, 2]), part([0]), class_names=("a", "b"))


def test_inputs_and_labels_must_be_as_many():
    with pytest.raises(DataError, match=r"the file has 3 inputs and labels of shape \(2,\)"):
        assemble("made", part([0, 1], x=torch.zeros(3, 2)), None)


def test_training_and_test_inputs_must_be_alike():
    with pytest.raises(DataError, match=r"shape \(2,\) .* those of the test file \(3,\)"):
        assemble("made", part([0, 1]), part([0], "the test file", x=torch.zeros(1, 3)))


def test_data_without_a_test_part_must_have_a_class_of_two():
    with pytest.raises(DataError, match="No class of the file has two examples"):
        assemble("made", part([0, 1, 2]), None)


@pytest.mark.parametrize(
    ("shape", "becomes"),
    [
        ((5,), (5, 1)),
        ((5, 7), (5, 7)),
        ((5, 8, 9), (5, 1, 8, 9)),
        ((5, 8, 9, 3), (5, 3, 8, 9)),
        ((5, 8, 9, 1), (5, 1, 8, 9)),
        ((5, 3, 8, 9), (5, 3, 8, 9)),
    ],
)
def test_channels_come_first_whatever_came(shape, becomes):
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    x = inputs(array, "it")
    assert x.shape == becomes
    if len(shape) == 4 and shape[3] in (1, 3):
        assert torch.equal(x[2, :, 4, 5], torch.from_numpy(array[2, 4, 5]))


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("uint8", torch.uint8),
        ("bool", torch.uint8),
        ("int64", torch.float32),
        ("float64", torch.float32),
        ("float16", torch.float32),
    ],
)
def test_bytes_stay_bytes_and_other_numbers_become_floats(given, kept):
    assert inputs(np.ones((2, 2), dtype=given), "it").dtype == kept


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([["a"]]), "inputs of it are of type <U1"),
        (np.zeros((0, 3)), r"empty \(shape \(0, 3\)\)"),
        (np.float32(1), r"empty \(shape \(\)\)"),
        (np.array([[0.0], [np.nan], [np.inf]]), "first in row 1 counting from 0, 2 rows"),
    ],
)
def test_inputs_that_cannot_be_learned_from_are_refused(array, message):
    with pytest.raises(DataError, match=message):
        inputs(array, "it")
