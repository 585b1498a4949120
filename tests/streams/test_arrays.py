"""A user's own `.npz` files."""

import numpy as np
import pytest
import torch

from holdfast.errors import DataError
from holdfast.streams.arrays import read_arrays


@pytest.fixture
def arrays():
    draw = np.random.default_rng(0)
    return {
        "x_train": draw.integers(0, 256, (20, 6, 6), dtype=np.uint8),
        "y_train": np.arange(20) % 4,
        "x_test": draw.integers(0, 256, (8, 6, 6), dtype=np.uint8),
        "y_test": np.arange(8) % 4,
    }


def saved(path, arrays):
    np.savez_compressed(path, **arrays)
    return path


def test_images_of_bytes_are_read_as_they_are(tmp_path, arrays):
    source = read_arrays(saved(tmp_path / "own.npz", arrays))
    assert source.name == "own"
    assert source.shape == (1, 6, 6)
    assert torch.equal(source.train["x"][:, 0], torch.from_numpy(arrays["x_train"]))
    assert source.test["y"].tolist() == arrays["y_test"].tolist()
    assert source.class_names == ("0", "1", "2", "3")


def test_string_labels_in_arrays_are_names(tmp_path, arrays):
    for part in ("y_train", "y_test"):
        arrays[part] = np.array(["d", "b", "a", "c"])[arrays[part]]
    source = read_arrays(saved(tmp_path / "own.npz", arrays))
    assert source.class_names == ("a", "b", "c", "d")
    assert source.train["y"][:4].tolist() == [3, 1, 0, 2]


def test_a_missing_array_is_named(tmp_path, arrays):
    del arrays["y_test"]
    with pytest.raises(DataError, match=r"has no y_test; .*it has: x_train, y_train, x_test"):
        read_arrays(saved(tmp_path / "own.npz", arrays))


@pytest.mark.parametrize("keep", [0, 10, 100, 0.5, 0.99])
def test_a_file_cut_short_is_refused(tmp_path, arrays, keep):
    path = saved(tmp_path / "own.npz", arrays)
    content = path.read_bytes()
    path.write_bytes(content[: keep if keep >= 1 or keep == 0 else int(len(content) * keep)])
    with pytest.raises(DataError, match=r"own\.npz is not a readable \.npz file"):
        read_arrays(path)


def test_a_damaged_array_is_refused(tmp_path, arrays):
    path = saved(tmp_path / "own.npz", arrays)
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"own\.npz is not a readable \.npz file"):
        read_arrays(path)


def test_another_kind_of_file_is_refused(tmp_path):
    path = tmp_path / "own.npz"
    path.write_text("x_train: none")
    with pytest.raises(DataError, match="not a readable"):
        read_arrays(path)


def test_a_single_array_under_the_name_is_refused(tmp_path):
    with (tmp_path / "own.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match="holds a single array"):
        read_arrays(tmp_path / "own.npz")


def test_objects_are_never_unpickled(tmp_path, arrays):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    arrays["y_train"] = np.array([Trap()] * 20, dtype=object)
    with pytest.raises(DataError, match=r"y_train of .* cannot be read as plain numbers"):
        read_arrays(saved(tmp_path / "own.npz", arrays))
    assert not (tmp_path / "sprung").exists()


def test_inputs_that_are_not_finite_are_named_with_their_row(tmp_path, arrays):
    arrays["x_train"] = arrays["x_train"].astype(np.float32)
    arrays["x_test"] = arrays["x_test"].astype(np.float32)
    arrays["x_test"][5, 0, 0] = np.nan
    with pytest.raises(DataError, match=r"own\.npz \(x_test\) hold NaN.*first in row 5"):
        read_arrays(saved(tmp_path / "own.npz", arrays))
