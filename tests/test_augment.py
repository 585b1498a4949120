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
    changed = augment.build("crop+flip+resized_crop+jitter+grey")(images().to(dtype))
    assert changed.dtype == dtype
    assert changed.shape == (64, 3, 8, 8)


def test_images_that_are_not_square_keep_their_shape():
    assert augment.build("crop+flip+resized_crop")(images()[:, :, :5]).shape == (64, 3, 5, 8)


def test_an_input_is_not_changed_in_place():
    x = images()
    before = x.clone()
    augment.build("crop+flip+resized_crop+jitter+grey")(x)
    augment.cutmix(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crpo", "no augmentation 'crpo'. Did you mean 'crop'"),
        ("crop(pading=4)", "no argument 'pading' of augmentation 'crop'. Did you mean 'padding'"),
        ("crop(padding=0)", "padding of augmentation 'crop' must be at least 1; given: 0"),
        ("crop(padding=half)", "must be a whole number"),
        ("flip(p=2.0)", r"p of augmentation 'flip' must be from 0 to 1; given: 2.0"),
        ("grey(p=-1.0)", r"p of augmentation 'grey' must be from 0 to 1; given: -1.0"),
        ("jitter(strength=2.0)", r"strength of augmentation 'jitter' must be from 0 to 1"),
        ("resized_crop(least=0.0)", r"least of augmentation 'resized_crop' must be above 0"),
    ],
)
def test_what_cannot_be_built_is_said_in_a_sentence(text, message):
    with pytest.raises(UsageError, match=message):
        augment.build(text)


def test_feature_vectors_are_refused():
    with pytest.raises(DataError, match=r"Only images.*\(7,\)"):
        augment.build("flip")(torch.zeros(3, 7))


def test_the_entries_name_arguments_and_defaults():
    assert augment.entries() == {
        "crop": {"padding": 4},
        "flip": {"p": 0.5},
        "resized_crop": {"least": 0.2},
        "jitter": {"strength": 0.4, "p": 0.8},
        "grey": {"p": 0.2},
    }


def test_a_resized_crop_is_a_part_of_its_image_stretched_to_the_whole():
    """Of an image that tells each pixel's place, a part tells its own place and size."""
    place = torch.linspace(-1, 1, 33)
    x = torch.stack(torch.meshgrid(place, place, indexing="ij")).expand(500, -1, -1, -1)
    torch.manual_seed(0)
    changed = augment.build("resized_crop(least=0.3)")(x)
    down, right = changed[:, 0, :, 16], changed[:, 1, 16, :]
    # In the middle of the part the image is still a plane, whose slope is the part's size.
    high, wide = ((line[:, 20] - line[:, 12]) / (place[20] - place[12]) for line in (down, right))
    area, ratio = wide * high, wide / high
    assert 0.28 < float(area.min()) < 0.36
    assert 0.9 < float(area.max()) < 1.02
    assert 0.72 < float(ratio.min()) < 0.8
    assert 1.25 < float(ratio.max()) < 1.37
    off = (down[:, 16].abs() + high).amax()
    assert float(off) < 1.05, "it does not reach beyond the image"
    assert float(down[:, 16].std()) > 0.05


def test_a_part_of_the_whole_area_changes_nothing_but_the_ratio():
    x = images(8).float()
    torch.testing.assert_close(
        augment.build("resized_crop(least=1.0)")(x).mean((2, 3)), x.mean((2, 3)), atol=30, rtol=0
    )


def test_jitter_without_strength_is_no_change_and_spares_the_share_that_it_should():
    x = images(1000)
    assert torch.equal(augment.build("jitter(strength=0.0, p=1.0)")(x), x)
    torch.manual_seed(0)
    same = (augment.build("jitter(p=0.7)")(x) == x).flatten(1).all(1)
    assert abs(int(same.sum()) - 300) < 5 * 14.5


def test_jitter_of_a_grey_image_scales_brightness_and_contrast_alone():
    """Whatever the order, a pixel becomes a linear function of itself where nothing is cut off."""
    x = 0.3 + 0.2 * torch.rand(200, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    changed = augment.build("jitter(p=1.0)")(x).flatten(1)
    flat = x.flatten(1)
    spread = changed.std(1) / flat.std(1)  # brightness times contrast
    level = changed.mean(1) / flat.mean(1)  # brightness
    assert 0.59 < float(level.min()) < 0.63
    assert 1.37 < float(level.max()) < 1.41
    assert 0.6**2 - 0.01 < float(spread.min()) < 0.6
    assert 1.4 < float(spread.max()) < 1.4**2 + 0.01
    linear = (changed - changed.mean(1, keepdim=True)) / spread[:, None]
    torch.testing.assert_close(linear, flat - flat.mean(1, keepdim=True), atol=1e-5, rtol=0)


def test_grey_images_have_no_colours_and_the_brightness_of_before():
    x = images(200)
    torch.manual_seed(0)
    changed = augment.build("grey(p=0.4)")(x)
    colourless = (changed == changed[:, :1]).flatten(1).all(1)
    assert abs(int(colourless.sum()) - 80) < 5 * 7
    assert torch.equal(changed[~colourless], x[~colourless])
    red, green, blue = x[colourless].float().unbind(1)
    expected = 0.2989 * red + 0.587 * green + 0.114 * blue
    assert float((changed[colourless][:, 0] - expected).abs().max()) <= 0.51


def test_cutmix_pastes_one_box_of_each_partner_and_tells_the_share_that_is_left():
    x = images(16)
    torch.manual_seed(0)
    shares = []
    for _ in range(300):
        mixed, partner, share = augment.cutmix(x)
        assert mixed.dtype == x.dtype
        assert sorted(partner.tolist()) == list(range(16))
        foreign = partner != torch.arange(16)
        inside = (mixed != x)[foreign].flatten(0, 1).any(0)
        rows, columns = inside.any(1).nonzero(), inside.any(0).nonzero()
        if len(rows):
            top, left, bottom, right = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
            box = (slice(None), slice(None), slice(top, bottom), slice(left, right))
            assert torch.equal(mixed[box], x[partner][box])
            inside[top:bottom, left:right] = True
        assert float(share) == pytest.approx(1 - inside.float().mean().item(), abs=1e-6)
        shares.append(float(share))
    # Half a side is 0, 1, 2 or 3 of 8 pixels with chances 1, 3, 5 and 7 of 16; cut off at the edge
    # sides are 15/8, 28/8 and 39/8 long in the mean. A share deviates by 0.18, the mean by 0.0104.
    left = 1 - (3 * 15**2 + 5 * 28**2 + 7 * 39**2) / 8**2 / 16 / 64
    assert abs(sum(shares) / 300 - left) < 5 * 0.0104


def test_cutmix_mixes_by_chance_and_only_within_groups():
    x, groups = images(40), torch.arange(40) % 4
    torch.manual_seed(0)
    mixed = [augment.cutmix(x, p=0.3) for _ in range(500)]
    # Boxes smaller than two pixels of eight mix nothing either: 1 / 16 of those drawn.
    assert abs(sum(float(share) < 1 for _, _, share in mixed) - 0.3 * 500 * 15 / 16) < 5 * 10
    for _ in range(20):
        changed, partner, _ = augment.cutmix(x, groups=groups)
        assert torch.equal(groups[partner], groups)
        alone = partner == torch.arange(40)
        assert torch.equal(changed[alone], x[alone])
