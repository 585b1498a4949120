"""Augmentation of batches of images."""

import pytest
import torch

from holdfast import augment
from holdfast.errors import DataError, UsageError


def images(count: int = 64, channels: int = 3, side: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (count, channels, side, side)
    return torch.randint(1, 256, shape, generator=generator, dtype=torch.uint8)


def windows(image: torch.Tensor, padding: int) -> list[torch.Tensor]:
    """Every crop that an image can have."""
    side = image.shape[-1]
    wide = torch.nn.functional.pad(image, (padding,) * 4)
    return [
        wide[:, top : top + side, left : left + side]
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    ]


def test_each_crop_is_a_window_of_its_padded_image_and_bytes_stay_exact():
    x = images(16)
    torch.manual_seed(0)
    changed = augment.build("crop(padding=2)")(x)
    assert changed.dtype == torch.uint8
    for before, after in zip(x, changed, strict=True):
        assert any(torch.equal(after, window) for window in windows(before, 2))


def test_each_example_is_moved_by_a_draw_of_its_own_and_all_windows_occur():
    x = images(1).expand(2000, -1, -1, -1)
    torch.manual_seed(0)
    changed = augment.build("crop(padding=1)")(x).flatten(1)
    counts = [int((changed == w.flatten()).all(1).sum()) for w in windows(x[0], 1)]
    assert sum(counts) == 2000
    # Nine equally likely windows: 222 each, deviation 14.
    assert min(counts) > 222 - 5 * 14
    assert max(counts) < 222 + 5 * 14


def test_flips_mirror_about_half_of_the_images_left_to_right():
    x = images(1000, channels=1)
    torch.manual_seed(0)
    changed = augment.build("flip")(x)
    same = (changed == x).flatten(1).all(1)
    mirrored = (changed == x.flip(3)).flatten(1).all(1)
    assert bool((same ^ mirrored).all())
    assert abs(int(mirrored.sum()) - 500) < 5 * 16


def test_flip_takes_its_probability():
    x = images(10)
    assert torch.equal(augment.build("flip(p=1.0)")(x), x.flip(3))
    assert torch.equal(augment.build("flip(p=0)")(x), x)


def test_the_global_seed_decides_the_draws():
    x, change = images(), augment.build("crop(padding=4)+flip")
    torch.manual_seed(5)
    first = change(x)
    second = change(x)
    torch.manual_seed(5)
    assert torch.equal(change(x), first)
    assert not torch.equal(first, second)


def test_the_state_of_the_global_generator_is_the_whole_state():
    x = images()
    torch.manual_seed(5)
    worn = augment.build("crop+flip")
    worn(x)
    state = torch.get_rng_state()
    expected = worn(x)
    torch.set_rng_state(state)
    assert torch.equal(augment.build("crop+flip")(x), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_the_type_and_shape_are_kept(dtype):
    changed = augment.build("crop+flip")(images().to(dtype))
    assert changed.dtype == dtype
    assert changed.shape == (64, 3, 8, 8)


def test_images_that_are_not_square_keep_their_shape():
    assert augment.build("crop+flip")(images()[:, :, :5]).shape == (64, 3, 5, 8)


def test_an_input_is_not_changed_in_place():
    x = images()
    before = x.clone()
    augment.build("crop+flip")(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crpo", "no augmentation 'crpo'. Did you mean 'crop'"),
        ("crop(pading=4)", "no argument of augmentation 'crop', 'pading'. Did you mean 'padding'"),
        ("crop(padding=0)", "padding of augmentation 'crop' must be at least 1; given: 0"),
        ("crop(padding=half)", "must be a int"),
        ("flip(p=2.0)", r"p of augmentation 'flip' must be from 0 to 1; given: 2.0"),
    ],
)
def test_what_cannot_be_built_is_said_in_a_sentence(text, message):
    with pytest.raises(UsageError, match=message):
        augment.build(text)


def test_feature_vectors_are_refused():
    with pytest.raises(DataError, match=r"Only images.*\(7,\)"):
        augment.build("flip")(torch.zeros(3, 7))


def test_the_entries_name_arguments_and_defaults():
    assert augment.entries() == {"crop": {"padding": 4}, "flip": {"p": 0.5}}
