"""From a path to a source, whatever lies there."""

import numpy as np
import pytest
from PIL import Image

from holdfast.errors import DataError
from holdfast.streams.own import read


def test_each_kind_of_data_is_known_by_what_it_is(tmp_path):
    x, y = np.zeros((4, 3), np.float32), np.arange(4) % 2
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    assert read(tmp_path / "a.npz", 0).shape == (3,)

    (tmp_path / "b.csv").write_text("a,b,label\n" + "1,2,0\n3,4,1\n" * 5)
    assert read(tmp_path / "b.csv", 0).shape == (2,)

    pair = tmp_path / "pair"
    pair.mkdir()
    for name in ("train.jsonl", "test.jsonl"):
        (pair / name).write_text('{"a": 1, "y": 0}\n{"a": 2, "y": 1}\n')
    assert read(pair, 0).name == "pair"

    for label in "cd":
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(2):
            Image.new("L", (5, 4)).save(tmp_path / "photos" / label / f"{number}.png")
    assert read(tmp_path / "photos", 0).class_names == ("c", "d")

    datasets = pytest.importorskip("datasets")
    rows = {"a": [1.0, 2.0, 3.0, 4.0], "label": [0, 1, 0, 1]}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "saved")
    assert read(tmp_path / "saved", 0).classes == 2


def test_endings_are_known_in_capitals_too(tmp_path):
    (tmp_path / "B.CSV").write_text("a,label\n" + "1,0\n2,1\n" * 5)
    assert read(tmp_path / "B.CSV", 0).classes == 2


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(DataError, match=r"There is no file or folder .*gone\.npz"):
        read(tmp_path / "gone.npz", 0)


def test_an_unknown_ending_is_refused_with_what_is_accepted(tmp_path):
    (tmp_path / "own.xls").write_text("?")
    with pytest.raises(DataError, match=r"ends in '\.xls'; accepted: an \.npz file"):
        read(tmp_path / "own.xls", 0)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"The folder .* is empty; accepted"):
        read(tmp_path, 0)


def test_a_folder_of_nothing_known_is_refused_with_what_is_accepted(tmp_path):
    (tmp_path / "notes.md").write_text("nothing to learn")
    with pytest.raises(DataError, match=r"cannot be read: .*\. Accepted: an \.npz file"):
        read(tmp_path, 0)
