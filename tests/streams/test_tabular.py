"""A user's own tables, through the `datasets` library."""

import json

import numpy as np
import pytest
import torch

from holdfast.errors import DataError
from holdfast.streams.tabular import is_saved, pair_in, read_dataset, read_files

datasets = pytest.importorskip("datasets")

ROWS = [{"a": k, "b": k / 2, "label": "even" if k % 2 == 0 else "odd"} for k in range(20)]


def csv(path, rows=ROWS):
    lines = [",".join(rows[0]), *(",".join(str(v) for v in row.values()) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def jsonl(path, rows=ROWS):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parquet(path, rows=ROWS):
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(rows).to_parquet(path)
    return path


def read(path, test=None, seed=0):
    return read_files(path, test, "own", seed)


@pytest.mark.parametrize(
    ("write", "ending"), [(csv, "csv"), (jsonl, "jsonl"), (parquet, "parquet")]
)
def test_a_table_is_read_alike_from_every_kind_of_file(tmp_path, write, ending):
    source = read(write(tmp_path / f"own.{ending}"))
    assert source.class_names == ("even", "odd")
    assert source.train["y"].bincount().tolist() == [8, 8]
    assert source.test["y"].bincount().tolist() == [2, 2]
    x = torch.cat([source.train["x"], source.test["x"]])
    y = torch.cat([source.train["y"], source.test["y"]])
    order = x[:, 0].argsort()
    assert x[order].tolist() == [[k, k / 2] for k in range(20)]
    assert y[order].tolist() == [k % 2 for k in range(20)]


def test_every_feature_has_a_scale_of_its_own(tmp_path):
    source = read(csv(tmp_path / "own.csv"))
    x = source.train["x"].double()
    assert source.scale[0] == pytest.approx(x.mean(0).tolist())
    assert source.scale[1] == pytest.approx(x.std(0, correction=0).tolist())


def test_train_and_test_files_are_taken_as_they_are(tmp_path):
    csv(tmp_path / "train.csv", ROWS[:15])
    csv(tmp_path / "test.csv", ROWS[15:])
    pair = pair_in(tmp_path)
    source = read(*pair)
    assert source.train["x"][:, 0].tolist() == list(range(15))
    assert source.test["x"][:, 0].tolist() == list(range(15, 20))


def test_half_a_pair_of_files_is_refused(tmp_path):
    csv(tmp_path / "train.csv")
    with pytest.raises(DataError, match=r"has train\.csv but no test\.csv"):
        pair_in(tmp_path)


@pytest.mark.parametrize("name", ["label", "labels", "y"])
def test_the_label_column_goes_by_three_names(tmp_path, name):
    rows = [{"a": k, name: k % 3} for k in range(15)]
    assert read(csv(tmp_path / "own.csv", rows)).class_names == ("0", "1", "2")


def test_columns_of_words_are_passed_over_beside_numbers(tmp_path):
    rows = [{"a": k, "note": "n", "label": k % 2} for k in range(10)]
    assert read(csv(tmp_path / "own.csv", rows)).shape == (1,)


def test_one_column_of_lists_is_the_input(tmp_path):
    rows = [{"pixels": [[k, 0], [1, 2]], "label": k % 2, "id": k} for k in range(10)]
    source = read(jsonl(tmp_path / "own.jsonl", rows))
    assert source.shape == (1, 2, 2)
    x = torch.cat([source.train["x"], source.test["x"]])
    assert x[x[:, 0, 0, 0].argsort()].flatten(1).tolist() == [[k, 0, 1, 2] for k in range(10)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"a": 1, "target": 0}], r"no label column; accepted: .*label, labels or y.*a, target"),
        ([{"a": 1, "label": 0, "y": 0}], "has label and y; accepted: one column"),
        ([{"text": "hello", "label": 0}], r"no numeric columns .*text \(string\)"),
        ([{"label": 0}], "beside the label it has: nothing"),
        ([{"a": [1], "b": [2], "label": 0}], r"2 columns of lists or images \(a, b\)"),
        (
            [{"a": [1, 2], "label": 0}, {"a": [1, 2, 3], "label": 1}],
            "list in row 1 of column 'a' .* has 3 entries, that in row 0 2",
        ),
        ([{"a": ["x"], "label": 0}], "does not hold lists of numbers"),
        ([{"a": 1.0, "label": 0}, {"a": None, "label": 1}], "value is missing .first in row 1"),
        ([{"a": 1, "label": 0}, {"a": 1, "label": None}], "label in row 1 .* is missing"),
        ([{"a": 1, "label": 0.5}], "label in row 0 .* is 0.5; accepted: whole numbers"),
        ([{"a": 1, "label": -3}], r"lie in -3\.\.-3"),
    ],
)
def test_tables_that_cannot_be_learned_are_refused_with_the_place(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        read(jsonl(tmp_path / "own.jsonl", rows))


def test_a_test_file_without_a_column_is_refused(tmp_path):
    train = csv(tmp_path / "train.csv")
    test = csv(tmp_path / "test.csv", [{"a": 1, "label": "odd"}])
    with pytest.raises(DataError, match=r"test\.csv lacks the column 'b' of .*train\.csv"):
        read(train, test)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("own.csv", bytes(range(256)) * 4),
        ("own.csv", b"a,label\n1,0\n2,1,3,4\n"),
        ("own.jsonl", b'{"a": 1, "label": 0}\n{"a": 2, "lab'),
        ("own.parquet", b"PAR1 and then nothing"),
    ],
)
def test_damaged_files_are_refused_in_one_sentence_and_nothing_else(tmp_path, name, content, capfd):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{name} cannot be read: .+") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_parquet_file_cut_short_is_refused(tmp_path):
    path = parquet(tmp_path / "own.parquet")
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"own\.parquet cannot be read"):
        read(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [("own.csv", ""), ("own.csv", "a,label\n"), ("own.jsonl", ""), ("own.parquet", "")],
)
def test_a_file_without_rows_is_called_empty(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError, match=rf"{name} is empty"):
        read(path)


def test_a_saved_dataset_keeps_its_names_and_splits(tmp_path):
    features = datasets.Features(
        {"x": datasets.Sequence(datasets.Value("uint8")), "label": datasets.ClassLabel(names="cab")}
    )
    rows = {"x": [[k, 2 * k] for k in range(6)], "label": [0, 1, 2, 0, 1, 2]}
    whole = datasets.Dataset.from_dict(rows, features=features)
    parts = datasets.DatasetDict({"train": whole, "test": whole.select(range(3))})
    parts.save_to_disk(tmp_path / "saved")
    assert is_saved(tmp_path / "saved")
    source = read_dataset(tmp_path / "saved", seed=0)
    assert source.class_names == ("c", "a", "b")
    assert source.train["x"].dtype == torch.uint8
    assert source.train["x"].tolist() == rows["x"]
    assert len(source.test) == 3


def test_a_saved_dataset_of_images_is_decoded(tmp_path):
    from PIL import Image

    pictures = [Image.fromarray(np.full((4, 5, 3), k, np.uint8)) for k in range(10)]
    rows = {"image": pictures, "label": [k % 2 for k in range(10)]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    source = read_dataset(tmp_path / "saved", seed=0)
    assert source.shape == (3, 4, 5)
    x = torch.cat([source.train["x"], source.test["x"]])
    assert x[:, 0, 0, 0].sort().values.tolist() == list(range(10))


def test_other_splits_than_train_and_test_are_refused(tmp_path):
    whole = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"train": whole, "validation": whole}).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match="has the splits train, validation; accepted: train and"):
        read_dataset(tmp_path / "saved", seed=0)


def test_a_folder_that_datasets_can_load_is_read(tmp_path):
    (tmp_path / "data").mkdir()
    parquet(tmp_path / "data" / "train-00000-of-00001.parquet", ROWS[:12])
    parquet(tmp_path / "data" / "test-00000-of-00001.parquet", ROWS[12:])
    source = read_dataset(tmp_path, seed=0)
    assert (len(source.train), len(source.test)) == (12, 8)


def test_a_folder_of_nothing_known_is_refused(tmp_path):
    (tmp_path / "notes.md").write_text("nothing to learn")
    with pytest.raises(DataError, match="cannot be read"):
        read_dataset(tmp_path, seed=0)


def test_progress_bars_are_left_as_they_were(tmp_path):
    datasets.enable_progress_bars()
    read(csv(tmp_path / "own.csv"))
    assert not datasets.are_progress_bars_disabled()
