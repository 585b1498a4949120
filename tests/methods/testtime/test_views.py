"""Random views: each change by hand, and what all have in common."""

import colorsys

import pytest
import torch

from holdfast.augment import turned_hue
from holdfast.methods.testtime import views
from holdfast.methods.testtime.views import random_view


@pytest.fixture
def images():
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_hue_is_turned_as_by_the_standard_library(images):
    made = turned_hue(images, torch.tensor(0.05).view(1, 1, 1, 1))
    for row, column in [(0, 0), (3, 7), (20, 31)]:
        h, s, v = colorsys.rgb_to_hsv(*images[0, :, row, column].double().tolist())
        expected = colorsys.hsv_to_rgb((h + 0.05) % 1, s, v)
        assert made[0, :, row, column].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("per_image", [False, True])
def test_views_keep_shape_and_range_and_follow_the_generator(images, channels, per_image):
    x = images[:, :channels]

    def view(seed):
        return random_view(x, torch.Generator().manual_seed(seed), per_image)

    made = view(0)
    assert made.shape == x.shape
    assert 0 <= float(made.min()) <= float(made.max()) <= 1
    assert torch.equal(made, view(0))
    assert not torch.equal(made, view(1))


def test_one_draw_serves_all_images_unless_each_has_its_own(monkeypatch, images):
    monkeypatch.setattr(views, "NOISE", 0.0)
    same = images[:1].expand(4, -1, -1, -1)
    for per_image in (False, True):
        made = random_view(same, torch.Generator().manual_seed(3), per_image)
        alike = all(torch.allclose(made[0], other, atol=1e-6) for other in made[1:])
        assert alike is not per_image


def test_a_view_that_changes_nothing_is_the_image(monkeypatch, images):
    for name in ("BRIGHTNESS", "CONTRAST", "SATURATION", "GAMMA", "SCALE"):
        monkeypatch.setattr(views, name, (1.0, 1.0))
    for name, value in (("HUE", (0.0, 0.0)), ("DEGREES", 0.0), ("SHIFT", 0.0), ("NOISE", 0.0)):
        monkeypatch.setattr(views, name, value)
    monkeypatch.setattr(views, "BLUR", (0.001, 0.001))
    made = random_view(images, torch.Generator().manual_seed(0), mirror=False)
    torch.testing.assert_close(made, images, atol=1e-5, rtol=0)


def test_half_of_the_views_are_mirrored_if_mirrors_are_wanted(monkeypatch):
    for name, value in (("DEGREES", 0.0), ("SHIFT", 0.0), ("NOISE", 0.0)):
        monkeypatch.setattr(views, name, value)
    x = torch.zeros(1, 1, 8, 8)
    x[..., :4] = 0.5
    draw = torch.Generator().manual_seed(0)
    left = [bool(v[..., :4].mean() > v[..., 4:].mean()) for v in
            (random_view(x, draw) for _ in range(100))]  # fmt: skip
    assert 35 < sum(left) < 65
    assert all(v[..., :4].mean() > v[..., 4:].mean() for v in
               (random_view(x, draw, mirror=False) for _ in range(20)))  # fmt: skip


def test_beyond_the_edge_the_edge_goes_on():
    x = torch.full((2, 3, 16, 16), 0.5)
    draw = torch.Generator().manual_seed(0)
    for _ in range(10):
        made = random_view(x, draw)
        inner = made.mean((2, 3), keepdim=True)
        assert float((made - inner).abs().max()) < 0.05  # noise alone: no dark corners
