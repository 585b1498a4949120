"""Corruptions: against other libraries where they have the operation, by hand elsewhere."""

import colorsys
import io
from itertools import pairwise

import numpy as np
import pytest
import scipy.ndimage as ndimage
import torch
from PIL import Image

from holdfast import streams
from holdfast.errors import DataError, UsageError
from holdfast.streams.corruptions import CORRUPTIONS, corrupt
from holdfast.streams.corruptions.digital import boxes
from holdfast.streams.corruptions.filters import (
    gaussian_blur,
    plasma,
    sampled,
    smeared,
    zoomed,
)

FIXED = ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg")
"""Corruptions without chance."""


@pytest.fixture(scope="module")
def images():
    """Smooth colour images with an edge in them."""
    draw = torch.Generator().manual_seed(0)
    noise = torch.rand(24, 3, 32, 32, generator=draw)
    x = gaussian_blur(noise, 2.0)
    x = (x - x.amin()) / (x.amax() - x.amin())
    x[:, :, 10:20, 8:24] = 1 - x[:, :, 10:20, 8:24]
    return x


@pytest.mark.parametrize("shape", [(6, 1, 28, 28), (6, 3, 32, 32), (4, 3, 64, 64), (6, 1, 8, 8)])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_keeps_shape_range_and_seed(name, shape):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    state = torch.get_rng_state()
    made = corrupt(x, name, 3, seed=5)
    assert made.shape == x.shape
    assert made.dtype == x.dtype
    assert 0 <= float(made.min()) <= float(made.max()) <= 1
    assert not torch.equal(made, x)
    assert torch.equal(made, corrupt(x, name, 3, seed=5))
    assert torch.equal(state, torch.get_rng_state())  # nobody else's chance is touched


@pytest.mark.parametrize(
    "name",
    [n for n in CORRUPTIONS if n not in FIXED],
)
def test_another_seed_draws_another_corruption_of_the_same_image(name, images):
    assert not torch.equal(corrupt(images, name, 5, seed=0), corrupt(images, name, 5, seed=1))


# Glass alternates between more blur and more rounds, and elastic trades the shift of the whole for
# bends, so that their distance in pixels does not rise with the published severities.
@pytest.mark.parametrize("name", [n for n in CORRUPTIONS if n not in ("glass_blur", "elastic")])
def test_what_is_left_of_the_image_falls_with_severity(name, images):
    def alike(severity):
        made = corrupt(images, name, severity).flatten(1)
        clean = images.flatten(1)
        if name in ("brightness", "contrast"):  # which keep what can be kept by one factor
            return -float((made - clean).abs().mean())
        made, clean = (v - v.mean(1, keepdim=True) for v in (made, clean))
        return float(torch.cosine_similarity(made, clean).mean())

    kept = [alike(severity) for severity in range(1, 6)]
    # Two severities of motion differ in the faint end of the kernel alone, less than by chance.
    assert all(after < before + 0.015 for before, after in pairwise(kept))
    assert kept[0] - kept[-1] > 0.003


def test_bytes_are_corrupted_as_bytes(images):
    x = (images * 255).round().to(torch.uint8)
    made = corrupt(x, "contrast", 2)
    assert made.dtype == torch.uint8
    expected = corrupt(x.float() / 255, "contrast", 2) * 255
    assert (made.float() - expected).abs().max() <= 0.5


def test_noises_have_the_published_strengths():
    x = torch.full((50, 1, 32, 32), 0.5)
    gaussian = corrupt(x, "gaussian_noise", 5) - x
    assert float(gaussian.std()) == pytest.approx(0.10, rel=0.02)
    shot = corrupt(x, "shot_noise", 5) - x
    assert float(shot.var()) == pytest.approx(0.5 / 50, rel=0.03)  # a Poisson mean of 25, over 50²
    impulse = corrupt(x, "impulse_noise", 5)
    assert float((impulse != 0.5).float().mean()) == pytest.approx(0.07, rel=0.05)
    assert float((impulse == 1).float().mean()) == pytest.approx(0.035, rel=0.08)


@pytest.mark.parametrize(("edge", "truncate"), [("nearest", 4.0), ("reflect", 3.0)])
@pytest.mark.parametrize("sigma", [0.4, 2.56, 6.4])
def test_gaussian_blur_is_scipys(images, edge, truncate, sigma):
    ours = gaussian_blur(images[:2], sigma, edge, truncate)
    theirs = ndimage.gaussian_filter(
        images[:2].double().numpy(), (0, 0, sigma, sigma), mode=edge, truncate=truncate
    )
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-5)


@pytest.mark.parametrize("factor", [1.01, 1.07, 1.25])
def test_zoom_is_scipys(images, factor):
    image = images[0, 0].double().numpy()
    inner = int(np.ceil(32 / factor))
    top = (32 - inner) // 2
    larger = ndimage.zoom(image[top : top + inner, top : top + inner], factor, order=1)
    cut = (len(larger) - 32) // 2
    expected = larger[cut : cut + 32, cut : cut + 32]
    np.testing.assert_allclose(zoomed(images[:1, :1], factor)[0, 0].numpy(), expected, atol=1e-5)


def test_a_smear_to_the_right_is_half_a_normal_kernel_along_the_row():
    x = torch.zeros(1, 1, 9, 40)
    x[0, 0, 4, 30] = 1
    made = smeared(x, 6, 2.0, torch.zeros(1))[0, 0]
    kernel = np.exp(-0.5 * (np.arange(13) / 2.0) ** 2)
    kernel /= kernel.sum()
    np.testing.assert_allclose(made[4, 30 - np.arange(13)].numpy(), kernel, atol=1e-6)
    assert float(made.sum()) == pytest.approx(1, abs=1e-5)


def test_defocus_spreads_a_point_over_a_disc():
    x = torch.zeros(1, 1, 15, 15)
    x[0, 0, 7, 7] = 1
    made = corrupt(x, "defocus_blur", 5)[0, 0]
    # At severity 5 the radius is 1.5 pixels: the centre and its eight neighbours, hardly softened.
    np.testing.assert_allclose(made[6:9, 6:9].numpy(), np.full((3, 3), 1 / 9), atol=1e-4)
    assert float(made.sum()) == pytest.approx(1, abs=1e-4)


def test_glass_takes_values_from_next_above_and_left_and_leaves_the_edge():
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    x = torch.stack([rows, columns, rows]).float()[None] / 255
    made = (corrupt(x, "glass_blur", 1) * 255).round()[0]
    moved = torch.stack([rows - made[0], columns - made[1]])
    assert set(moved.flatten().tolist()) == {0.0, 1.0}
    assert moved[:, :2].abs().sum() == 0
    share = moved[:, 2:31, 2:31].mean()
    assert float(share) == pytest.approx(0.5, abs=0.06)


def test_brightness_adds_to_the_value_of_hue_saturation_and_value(images):
    made = corrupt(images[:1], "brightness", 3)[0]
    for row, column in [(0, 0), (15, 16), (31, 4)]:
        h, s, v = colorsys.rgb_to_hsv(*images[0, :, row, column].double().tolist())
        expected = colorsys.hsv_to_rgb(h, s, min(1, v + 0.15))
        assert made[:, row, column].tolist() == pytest.approx(expected, abs=1e-5)


def test_contrast_draws_towards_the_mean_of_each_channel(images):
    made = corrupt(images, "contrast", 5)
    mean = images.mean((2, 3), keepdim=True)
    torch.testing.assert_close(made, (mean + 0.15 * (images - mean)).clamp(0, 1))


@pytest.mark.parametrize("size", [28, 32, 64])
@pytest.mark.parametrize("share", [0.95, 0.85, 0.65])
def test_pixelate_is_pillows_box_filter(size, share):
    image = np.random.default_rng(0).integers(0, 256, (size, size)).astype(np.float32)
    fewer = int(size * share)
    small = Image.fromarray(image).resize((fewer, fewer), Image.Resampling.BOX)
    back = np.asarray(small.resize((size, size), Image.Resampling.BOX))
    down, up = boxes(size, fewer).numpy(), boxes(fewer, size).numpy()
    np.testing.assert_allclose(up @ (down @ image @ down.T) @ up.T, back, atol=1e-2)


def test_jpeg_is_pillows(images):
    x = (images[:3] * 255).round().to(torch.uint8)
    made = corrupt(x, "jpeg", 5)
    for before, after in zip(x, made, strict=True):
        content = io.BytesIO()
        Image.fromarray(before.permute(1, 2, 0).numpy()).save(content, "JPEG", quality=40)
        expected = np.asarray(Image.open(content))
        assert np.array_equal(after.permute(1, 2, 0).numpy(), expected)


def test_fog_keeps_the_brightest_and_fills_the_dark():
    x = torch.zeros(8, 1, 32, 32)
    x[:, :, 0, 0] = 1
    made = corrupt(x, "fog", 5)
    assert float(made.max()) <= 1
    # Clouds from 0 to 1, times 1.5 and then divided by 1 + 1.5.
    assert float(made[:, :, 1:].amax()) <= 0.6 + 1e-5
    assert float(made[:, :, 1:].mean()) > 0.15


def test_plasma_is_rough_at_all_scales_and_rougher_for_less_decay():
    draw = torch.Generator().manual_seed(0)
    smooth, rough = (plasma(16, 32, 32, decay, draw) for decay in (3.0, 1.75))
    steps = [float(p.diff(dim=3).abs().mean()) for p in (smooth, rough)]
    assert steps[0] < steps[1]
    assert all(float(p.amin()) == 0 and float(p.amax()) == 1 for p in (smooth, rough))


def test_sampling_mirrors_as_scipy_does(images):
    rows, columns = torch.meshgrid(
        torch.linspace(-3, 33.5, 32), torch.linspace(-2.5, 34, 32), indexing="ij"
    )
    ours = sampled(images[:1, :1], rows[None], columns[None], corners=False)[0, 0]
    image = images[0, 0].numpy()
    theirs = ndimage.map_coordinates(image, [rows, columns], order=1, mode="reflect")
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-4)


def test_snow_and_frost_brighten_a_dark_image():
    x = torch.full((8, 3, 32, 32), 0.1)
    # 0.8 * 0.1 + 0.2 * (1.5 * 0.1 + 0.5) = 0.21 without a flake.
    assert 0.25 < float(corrupt(x, "snow", 5).mean()) < 0.4
    assert float(corrupt(x, "frost", 5).mean()) > 0.2


@pytest.mark.parametrize(
    ("x", "name", "severity", "error", "sentence"),
    [
        (torch.rand(2, 3, 8, 8), "fogg", 5, UsageError, "no corruption 'fogg'. Did you mean 'fog'"),
        (torch.rand(2, 3, 8, 8), "fog", 6, UsageError, "severity must be .* from 1 to 5; given: 6"),
        (torch.rand(2, 8), "fog", 5, DataError, r"Only images .* shape \(8,\)"),
        (16 * torch.ones(2, 1, 8, 8), "fog", 5, DataError, r"lie in 0 \.\. 1; these lie in 16"),
    ],
)
def test_what_cannot_be_corrupted_is_refused(x, name, severity, error, sentence):
    with pytest.raises(error, match=sentence):
        corrupt(x, name, severity)


# Streams.


def test_a_corrupted_stream_begins_clean_and_keeps_the_fields_order():
    stream = streams.build("corrupted-digits(limit=20, test_limit=20, rounds=2)")
    names = [experience.name for experience in stream]
    kinds = list(CORRUPTIONS)
    assert names == ["clean", *(f"{kind} 5" for kind in kinds * 2)]
    assert stream.scenario == "domain"
    assert len(stream[0].train) > 1400
    assert {len(e.train) for e in stream.experiences[1:]} == {20}
    assert stream[1].test is stream[16].test  # a domain that returns, without a copy
    assert stream[0].epochs is None
    assert stream[1].epochs == 1
    assert float(stream[11].test["x"].max()) <= 16


def test_a_gradual_stream_rises_and_falls_and_starts_at_its_peak():
    stream = streams.build(
        "corrupted-digits(limit=1, test_limit=10, change=gradual, kinds=[fog, jpeg])"
    )
    assert [e.name for e in stream][1:] == [
        *("fog 5", "fog 4 falling", "fog 3 falling", "fog 2 falling", "fog 1 falling"),
        *("jpeg 1", "jpeg 2", "jpeg 3", "jpeg 4", "jpeg 5"),
        *("jpeg 4 falling", "jpeg 3 falling", "jpeg 2 falling", "jpeg 1 falling"),
    ]
    assert torch.equal(stream[7].test["x"], stream[13].test["x"])  # jpeg 2, both ways


def test_an_order_by_seed_is_drawn_anew_each_round():
    def kinds(seed):
        text = "corrupted-digits(limit=1, test_limit=10, rounds=2, order=seed)"
        names = [e.name for e in streams.build(text, seed=seed)][1:]
        return names[:15], names[15:]

    first, second = kinds(0)
    assert first != second
    assert sorted(first) == sorted(second) == sorted(f"{kind} 5" for kind in CORRUPTIONS)
    assert kinds(0) == (first, second)
    assert kinds(1)[0] != first


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("corrupted-digits(severity=9)", "severity must be a whole number from 1 to 5; given: 9"),
        ("corrupted-digits(kinds=[rain])", "no corruption 'rain'"),
        ("corrupted-digits(change=slow)", "change must be abrupt or gradual; given: 'slow'"),
        ("corrupted-digits(rounds=0)", "rounds must be a whole number from 1; given: 0"),
    ],
)
def test_arguments_of_a_corrupted_stream_are_checked(text, sentence):
    with pytest.raises(UsageError, match=sentence):
        streams.build(text)
