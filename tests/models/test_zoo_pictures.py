"""The zoo's backbones for images: made once by a recipe, fed as they were trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from holdfast import Learner, streams
from holdfast.errors import CheckpointError, DataError, RunError, UsageError
from holdfast.methods import NCM
from holdfast.models import build
from holdfast.models.zoo import pictures
from holdfast.models.zoo.pictures import PictureRecipe, backbone, kept, kept_at, recipe_in
from holdfast.stream import Stream

TINY = PictureRecipe("cnn(width=4, depth=2)", "digits", epochs=4, limit=None, warmup=10)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("HOLDFAST_CACHE", str(cache))


@pytest.fixture(scope="module")
def digits() -> Stream:
    return streams.build("split-digits")


def test_a_backbone_is_made_once_and_its_recipe_recorded() -> None:
    path = kept(TINY)
    stamp = path.stat().st_mtime_ns
    assert kept(TINY) == path == kept_at(TINY)
    assert path.stat().st_mtime_ns == stamp
    told = json.loads((path / "recipe.json").read_text())
    assert PictureRecipe(**told["recipe"]) == TINY
    assert told["shape"] == [1, 8, 8]
    assert told["accuracy"] > 0.3  # of ten classes


def test_equal_recipes_give_equal_weights_and_other_seeds_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weights(recipe: PictureRecipe, where: str) -> dict[str, torch.Tensor]:
        monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / where))
        return backbone(recipe).state_dict()

    torch.manual_seed(3)
    expected, threads = torch.rand(2), torch.get_num_threads()
    torch.manual_seed(3)
    one, again = weights(TINY, "a"), weights(TINY, "b")
    other = weights(replace(TINY, seed=1), "a")
    assert torch.equal(torch.rand(2), expected)
    assert torch.get_num_threads() == threads
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_it_sees_images_as_it_was_trained_on_them(digits: Stream) -> None:
    """Raw digits, from 0 to 16, reach the kept network standardised by the moments of all."""
    source = pictures.SOURCES["digits"][0]()
    model = build("pretrained('cnn(width=4, depth=2)', on=digits, epochs=1, limit=100)", digits)
    raw = digits[0].test["x"][:5]
    (mean,), (deviation,) = source.scale
    network = model.backbone[1].backbone
    model.eval()
    wanted = network((raw - mean) / deviation)
    torch.testing.assert_close(model.features(raw), wanted, atol=1e-5, rtol=1e-4)


def test_images_of_another_size_are_brought_to_its_own(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (40, 12, 12), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", x_train=x, y_train=np.arange(40) % 4, x_test=x[:8],
             y_test=np.arange(8) % 4)  # fmt: skip
    stream = streams.build(f"split:{tmp_path}/own.npz", experiences=2)
    spec = "pretrained('mlp(width=8)', on=digits, epochs=1, limit=100)"
    model = build(spec, stream, head="growing").eval()
    raw = stream[0].test["x"]
    fitted = torch.nn.functional.interpolate(
        raw / 255, (8, 8), mode="bilinear", antialias=True, align_corners=False
    )
    framed = model.backbone[1]
    wanted = framed.backbone((fitted - framed.mean) / framed.deviation)
    torch.testing.assert_close(model.features(raw), wanted, atol=1e-5, rtol=1e-4)


def test_what_it_knows_helps_on_other_classes(digits: Stream) -> None:
    """Class means on its features tell digits apart better than on features as they are drawn."""
    named = "'cnn(width=8, depth=2)'"
    scores = []
    for spec in (named.strip("'"), f"pretrained({named}, on=digits, epochs=8, limit=none)"):
        model = build(spec, digits, head="prototype", seed=0)
        model.backbone.requires_grad_(False)
        scores.append(Learner(model, NCM()).learn(digits).seen_so_far())
    assert scores[1] > scores[0] + 0.05


def test_specs_name_recipes() -> None:
    assert recipe_in("cnn") is None
    assert recipe_in("pretrained") == PictureRecipe()
    assert recipe_in("pretrained('vit( patch=2 )', on=digits, seed=2)") == PictureRecipe(
        "vit(patch=2)", "digits", seed=2
    )


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("pretrained(cmn)", r"no model 'cmn' that pretrained builds\. Did you mean 'cnn'"),
        ("pretrained(on=imagenet)", "no data set 'imagenet' that pretrained learns.*mnist"),
        ("pretrained(on=digits, epochs=0)", "epochs must be at least 1; given: 0"),
        ("pretrained(on=digits, width=3)", "no argument 'width' of model 'pretrained'"),
    ],
)
def test_recipes_that_cannot_be_are_refused(spec: str, said: str, digits: Stream) -> None:
    with pytest.raises(UsageError, match=said):
        build(spec, digits)


def test_streams_that_do_not_fit_are_refused(digits: Stream) -> None:
    x = torch.randint(256, (12, 3, 8, 8), dtype=torch.uint8)
    colour = streams.split((x, torch.arange(12) % 2), experiences=2)
    with pytest.raises(UsageError, match="takes 1 channels; the images of 'split' have 3"):
        build("pretrained('cnn(width=4, depth=2)', on=digits, epochs=1, limit=100)", colour)


def test_data_that_are_not_here_and_caches_that_cannot_be_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: Stream
) -> None:
    monkeypatch.delenv("HOLDFAST_DATA", raising=False)
    with pytest.raises(DataError, match=r"set HOLDFAST_DATA .*mnist\.npz"):
        build("pretrained(on=mnist)", digits)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "file"))
    with pytest.raises(RunError, match="Set HOLDFAST_CACHE to a folder that can be written"):
        backbone(TINY)


def test_damage_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path))
    file = kept(TINY) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        backbone(TINY)
