"""A user's own folders of images."""

import numpy as np
import pytest
import torch
from PIL import Image

from holdfast.errors import DataError
from holdfast.streams.images import holds_images, read_folder


def picture(path, value=0, mode="RGB", size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}.get(mode, ())
    pixels = np.full((size[1], size[0], *channels), value, np.uint8)
    image = Image.fromarray(pixels)
    (image if image.mode == mode else image.convert(mode)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Ten cats, their brightness their number, and five dogs, from 100 on."""
    for number in range(10):
        picture(tmp_path / "cat" / f"{number}.png", number)
    for number in range(5):
        picture(tmp_path / "dog" / f"{number}.png", 100 + number)
    return tmp_path


def test_one_folder_is_divided_by_seed_a_fifth_of_each_class_for_testing(folder):
    source = read_folder(folder, seed=0)
    assert source.class_names == ("cat", "dog")
    assert source.shape == (3, 4, 6)
    assert source.train["x"].dtype == torch.uint8
    assert source.train["y"].bincount().tolist() == [8, 4]
    assert source.test["y"].bincount().tolist() == [2, 1]
    seen = torch.cat([source.train["x"], source.test["x"]])[:, 0, 0, 0]
    assert seen.sort().values.tolist() == [*range(10), *range(100, 105)]
    for table in (source.train, source.test):
        assert torch.equal(table["x"][:, 0, 0, 0] >= 100, table["y"] == 1)
    assert torch.equal(read_folder(folder, seed=0).test["x"], source.test["x"])
    others = [read_folder(folder, seed=seed).test["x"] for seed in range(1, 6)]
    assert any(not torch.equal(other, source.test["x"]) for other in others)


def test_train_and_test_folders_are_taken_as_they_are(tmp_path):
    for part, count in (("train", 3), ("test", 2)):
        for label in ("b", "a"):
            for number in range(count):
                picture(tmp_path / part / label / f"{number}.png", number, mode="L")
    source = read_folder(tmp_path, seed=0)
    assert source.shape == (1, 4, 6)
    assert source.train["x"][:, 0, 0, 0].tolist() == [0, 1, 2, 0, 1, 2]
    assert source.train["y"].tolist() == [0, 0, 0, 1, 1, 1]
    assert source.test["y"].tolist() == [0, 0, 1, 1]


def test_pixels_are_where_they_were(tmp_path):
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    for number in range(2):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "a" / f"{number}.png")
    source = read_folder(tmp_path, seed=0)
    assert torch.equal(source.train["x"][0], torch.from_numpy(pixels).permute(2, 0, 1))


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("L", 1), ("P", 3), ("RGBA", 4)])
def test_other_modes_become_bytes_in_channels(tmp_path, mode, channels):
    for number in range(3):
        picture(tmp_path / "a" / f"{number}.png", 255, mode=mode)
    source = read_folder(tmp_path, seed=0)
    assert source.shape == (channels, 4, 6)
    assert int(source.train["x"].min()) == 255


def test_the_first_image_of_another_size_is_named(folder):
    picture(folder / "cat" / "7.png", size=(6, 5))
    picture(folder / "dog" / "1.png", size=(6, 5))
    with pytest.raises(DataError, match=r"cat/7\.png is 6x5 \(RGB\), but .*cat/0\.png is 6x4"):
        read_folder(folder, seed=0)


def test_the_first_image_of_another_mode_is_named(folder):
    picture(folder / "dog" / "3.png", mode="L")
    with pytest.raises(DataError, match=r"dog/3\.png is 6x4 \(L\)"):
        read_folder(folder, seed=0)


def test_a_mode_that_cannot_be_bytes_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a" / "0.tif")
    with pytest.raises(DataError, match=r"0\.tif is an image of mode F; accepted: 1, L, P"):
        read_folder(tmp_path, seed=0)


def test_a_truncated_image_is_named(tmp_path):
    draw = np.random.default_rng(0)
    for number in range(3):
        (tmp_path / "a").mkdir(exist_ok=True)
        pixels = draw.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "a" / f"{number}.png")
    path = tmp_path / "a" / "1.png"
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(DataError, match=r"1\.png cannot be read as an image"):
        read_folder(tmp_path, seed=0)


def test_a_file_that_is_no_image_is_named(folder):
    (folder / "cat" / "5.png").write_text("not a picture")
    with pytest.raises(DataError, match=r"5\.png cannot be read as an image"):
        read_folder(folder, seed=0)


def test_an_empty_class_folder_is_named(folder):
    (folder / "eel").mkdir()
    (folder / "eel" / "notes.txt").write_text("none yet")
    with pytest.raises(DataError, match=r"class folder .*eel has no images"):
        read_folder(folder, seed=0)


def test_half_a_division_is_refused(tmp_path):
    picture(tmp_path / "train" / "a" / "0.png")
    with pytest.raises(DataError, match="has a folder 'train' but none called 'test'"):
        read_folder(tmp_path, seed=0)


def test_a_class_seen_only_in_test_is_refused(tmp_path):
    for label in ("train/a", "train/b", "test/a", "test/c"):
        picture(tmp_path / label / "0.png")
    with pytest.raises(DataError, match=r"test label 'c' .* occurs in no training example"):
        read_folder(tmp_path, seed=0)


def test_files_that_are_not_named_as_images_are_passed_over(folder):
    before = read_folder(folder, seed=0)
    (folder / "cat" / "notes.txt").write_text("good cats")
    (folder / ".hidden").mkdir()
    assert torch.equal(read_folder(folder, seed=0).train["x"], before.train["x"])


def test_a_folder_of_images_is_known_by_its_files(folder, tmp_path_factory):
    assert holds_images(folder)
    assert not holds_images(tmp_path_factory.mktemp("empty"))
