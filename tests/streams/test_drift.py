"""Drift: from streams and from a user's own files, with labels or without."""

import numpy as np
import pytest
import torch
from PIL import Image

from holdfast.errors import DataError, UsageError
from holdfast.streams.drift import drift


def test_a_stream_gives_its_test_images_and_counts_rounds():
    found = drift("corrupted-digits(limit=1, test_limit=20, rounds=2, kinds=[fog, jpeg])")
    assert [(d.name, d.round) for d in found.domains] == [
        ("fog 5", 1), ("jpeg 5", 1), ("fog 5", 2), ("jpeg 5", 2),
    ]  # fmt: skip
    assert found.labelled
    assert found.rounds == 2
    assert found.white == 16
    assert len(found.clean) == 20
    assert len(found.past) > 1400
    assert found.class_names == tuple("0123456789")


def test_any_stream_whose_conditions_change_will_do():
    found = drift("rotated-digits(limit=5, test_limit=20, experiences=3)")
    assert [d.name for d in found.domains] == ["60 degrees", "120 degrees"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("split-digits", "brings new classes, and at test time classes stay"),
        ("corrupted-digits(experiences=1)", "has a single experience"),
        ("docs-code", "is language; adapt takes streams of images"),
        ("corupted-digits", "Did you mean 'corrupted-digits'"),
    ],
)
def test_what_is_no_drift_is_refused(text, sentence):
    with pytest.raises(UsageError, match=sentence):
        drift(text)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3)).astype(np.uint8)


def test_arrays_have_domains_by_row_and_labels_by_name_or_none(tmp_path, pixels):
    domain = np.array(["night", "day", "night", "day", "day", "night"])
    names = np.array(["cat", "dog", "cat", "cat", "dog", "dog"])
    np.savez(tmp_path / "a.npz", x=pixels, domain=domain, y=names)
    found = drift(str(tmp_path / "a.npz"), known=("dog", "cat"))
    assert [(d.name, len(d.x)) for d in found.domains] == [("night", 3), ("day", 3)]
    assert [d.y.tolist() for d in found.domains] == [[1, 1, 0], [0, 1, 0]]
    assert found.shape == (3, 8, 8)
    assert found.white == 255
    np.savez(tmp_path / "b.npz", x=pixels)
    bare = drift(str(tmp_path / "b.npz"))
    assert not bare.labelled
    assert [d.name for d in bare.domains] == ["b"]
    with pytest.raises(
        DataError, match="class 'cat', which the model does not know; it knows: dog"
    ):
        drift(str(tmp_path / "a.npz"), known=("dog",))


def test_a_folder_of_arrays_is_one_domain_a_file(tmp_path, pixels):
    for name in ("2-fog", "1-sun"):
        np.savez(tmp_path / f"{name}.npz", x=pixels, y=np.arange(6))
    found = drift(str(tmp_path))
    assert [d.name for d in found.domains] == ["1-sun", "2-fog"]
    assert torch.equal(found.domains[0].y, torch.arange(6))


def test_folders_of_images_by_domain_and_class_by_class_by_domain_or_bare(tmp_path, pixels):
    def save(*parts):
        path = tmp_path.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[len(parts)]).save(path)

    for domain in ("fog", "night"):
        for kind in ("cat", "dog"):
            save("full", domain, kind, "0.png")
    save("classes", "cat", "0.png")
    save("classes", "dog", "0.png")
    save("domains", "fog", "0.png")
    save("domains", "night", "0.png")
    save("bare", "0.png")
    known = ("cat", "dog", "owl")

    def read(name):
        found = drift(str(tmp_path / name), known)
        return [(d.name, None if d.y is None else d.y.tolist()) for d in found.domains]

    assert read("full") == [("fog", [0, 1]), ("night", [0, 1])]
    assert read("classes") == [("classes", [0, 1])]
    assert read("domains") == [("fog", None), ("night", None)]
    assert read("bare") == [("bare", None)]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no images; accepted: files ending in"):
        drift(str(tmp_path / "empty"))


def test_domains_of_different_shapes_are_refused(tmp_path, pixels):
    np.savez(tmp_path / "a.npz", x=pixels)
    np.savez(tmp_path / "b.npz", x=pixels[:, :4])
    with pytest.raises(DataError, match="accepted: one shape"):
        drift(str(tmp_path))
