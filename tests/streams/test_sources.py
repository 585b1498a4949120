"""The data sets by name. Those marked `data` need the folder that HOLDFAST_DATA names."""

import io
import json
import os
import time

import numpy as np
import pytest
import torch
from PIL import Image

from holdfast import streams
from holdfast.errors import DataError
from holdfast.streams import sources

data = pytest.mark.data
needs_data = pytest.mark.skipif(
    not os.environ.get("HOLDFAST_DATA"),
    reason="set HOLDFAST_DATA to a folder with mnist, fashion_mnist, cifar10 and omniglot",
)


def jpegs(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pictures as JPEG files end to end, and where each begins."""
    files = []
    for picture in pictures:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=95)
        files.append(file.getvalue())
    offset = np.cumsum([0, *map(len, files)])
    return np.frombuffer(b"".join(files), np.uint8), offset


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A folder with ten uniform pictures to train on and ten to test on, one of each class."""
    folder = tmp_path / "data" / "cifar10"
    folder.mkdir(parents=True)
    pictures = np.stack([np.full((32, 32, 3), 20 * k, np.uint8) for k in range(10)])
    jpeg, offset = jpegs(pictures)
    y = np.arange(10).astype(np.uint8)
    np.savez(
        folder / "cifar10_jpeg.npz",
        **{"jpeg_train": jpeg, "offset_train": offset, "y_train": y},
        **{"jpeg_test": jpeg, "offset_test": offset, "y_test": y},
    )
    names = [f"kind {k}" for k in range(10)]
    (folder / "cifar10.json").write_text(json.dumps({"classes": names}))
    monkeypatch.setenv("HOLDFAST_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    return folder


def cached(cifar) -> list:
    return sorted((cifar.parent.parent / "cache").glob("*"))


def test_digits_hold_out_every_fifth_of_each_class():
    source = sources.digits()
    counts = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert source.test["y"].bincount().tolist() == [count // 5 for count in counts]
    assert source.train["y"].bincount().tolist() == [count - count // 5 for count in counts]
    assert source.train["x"].dtype == torch.uint8
    assert int(source.train["x"].max()) == 16


def test_cifar_pictures_are_decoded_in_their_order_with_channels_first(cifar):
    source = sources.cifar10()
    assert source.shape == (3, 32, 32)
    assert source.class_names[3] == "kind 3"
    grey = source.train["x"].float().mean((1, 2, 3))
    assert (grey - torch.arange(10) * 20).abs().max() < 2
    assert source.train["y"].tolist() == list(range(10))


def test_cifar_is_decoded_once_and_again_when_its_file_has_changed(cifar):
    first = sources.cifar10()
    (file,) = cached(cifar)
    written = file.stat().st_mtime_ns
    again = sources.cifar10()
    assert torch.equal(first.train["x"], again.train["x"])
    assert [path.stat().st_mtime_ns for path in cached(cifar)] == [written]
    later = time.time() + 10
    os.utime(cifar / "cifar10_jpeg.npz", (later, later))
    sources.cifar10()
    assert len(cached(cifar)) == 2


def test_a_damaged_cache_is_made_again(cifar):
    first = sources.cifar10()
    (file,) = cached(cifar)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert torch.equal(sources.cifar10().train["x"], first.train["x"])
    assert file.stat().st_size == len(whole)


def test_a_cache_that_cannot_be_written_says_what_to_set(cifar, monkeypatch):
    blocked = cifar / "a file"
    blocked.write_text("")
    monkeypatch.setenv("HOLDFAST_CACHE", str(blocked))
    with pytest.raises(DataError, match="set HOLDFAST_CACHE to a folder with room for"):
        sources.cifar10()


def test_a_picture_that_cannot_be_decoded_is_named(cifar):
    path = cifar / "cifar10_jpeg.npz"
    arrays = dict(np.load(path))
    broken = arrays["jpeg_test"].copy()
    broken[arrays["offset_test"][4] : arrays["offset_test"][5]] = 0
    np.savez(path, **{**arrays, "jpeg_test": broken})
    with pytest.raises(DataError, match=r"Picture 4 of .*cifar10_jpeg\.npz cannot be decoded"):
        sources.cifar10()
    assert cached(cifar) == []


def test_where_only_the_small_cifar_is_there_the_name_says_so(cifar):
    (cifar / "cifar10_jpeg.npz").unlink()
    with pytest.raises(DataError, match=r"no file cifar10/cifar10_jpeg\.npz"):
        streams.build("split-cifar10")
    x, y = np.zeros((20, 32, 32, 3), np.uint8), np.arange(20) % 10
    np.savez(cifar / "cifar10_small.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    stream = streams.build("split-cifar10(experiences=2)")
    assert stream.name == "split-cifar10-small(experiences=2)"
    assert stream.shape == (3, 32, 32)


def test_class_names_that_cannot_be_read_are_named(cifar):
    (cifar / "cifar10.json").write_text("{}")
    with pytest.raises(DataError, match=r"cifar10\.json cannot be read"):
        sources.cifar10()


@data
@needs_data
@pytest.mark.parametrize(
    ("name", "train", "test", "mean", "deviation"),
    [
        # The means and deviations that are published for these sets, in units of 255.
        ("mnist", 60000, 10000, 0.1307, 0.3081),
        ("fashion-mnist", 60000, 10000, 0.2860, 0.3530),
    ],
)
def test_grey_pictures_have_their_published_counts_and_moments(name, train, test, mean, deviation):
    source = sources.SOURCES[name][0]()
    assert (len(source.train), len(source.test)) == (train, test)
    assert source.shape == (1, 28, 28)
    assert source.scale[0][0] / 255 == pytest.approx(mean, abs=5e-5)
    assert source.scale[1][0] / 255 == pytest.approx(deviation, abs=5e-5)


@data
@needs_data
def test_cifar10_has_its_published_counts_and_nearly_its_moments():
    source = sources.cifar10()
    assert source.train["y"].bincount().tolist() == [5000] * 10
    assert source.test["y"].bincount().tolist() == [1000] * 10
    # Recompressed pictures: the published moments hold to a hundredth.
    assert [m / 255 for m in source.scale[0]] == pytest.approx([0.4914, 0.4822, 0.4465], abs=0.01)
    assert [d / 255 for d in source.scale[1]] == pytest.approx([0.2470, 0.2435, 0.2616], abs=0.01)


@data
@needs_data
def test_omniglot_has_242_characters_by_14_drawers_and_by_6_others():
    stream = streams.build("omniglot")
    assert stream.classes == 242
    assert [len(experience.classes) for experience in stream] == [22] * 11
    assert all(len(e.train) == 22 * 14 and len(e.test) == 22 * 6 for e in stream)


@data
@needs_data
@pytest.mark.parametrize("name", [e.name for e in streams.entries() if e.needs_data])
def test_every_named_stream_is_built(name):
    entry = streams.entry(name)
    limits = [f"{limit}=242" for limit in ("limit", "test_limit") if limit in entry.arguments]
    limits += ["encoder=hashed"] * ("encoder" in entry.arguments)
    stream = streams.build(f"{name}({', '.join(limits)})")
    assert len(stream) == entry.experiences
    assert stream.scenario == entry.scenario
    if stream.scenario == "text":
        assert all(experience.train["input_ids"].dtype == torch.int64 for experience in stream)
    else:
        wanted = torch.float32 if "encoder" in entry.arguments else torch.uint8
        assert all(experience.train["x"].dtype == wanted for experience in stream)
