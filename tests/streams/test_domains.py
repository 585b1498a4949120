"""Permuted pixels and turned images."""

import math

import pytest
import torch

from holdfast.errors import DataError
from holdfast.streams import domains
from holdfast.streams.domains import permute, pixels, rotate


def images(count=6, channels=3, height=7, width=7, dtype=torch.uint8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (count, channels, height, width)
    return torch.randint(0, 256, shape, generator=generator).to(dtype)


def bilinear(image: list[list[float]], degrees: float) -> list[list[float]]:
    """Turned counter-clockwise, pixel by pixel: each reads from where the turn brought it from."""
    height, width = len(image), len(image[0])
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))

    def at(row: int, column: int) -> float:
        inside = 0 <= row < height and 0 <= column < width
        return image[row][column] if inside else 0.0

    def value(row: int, column: int) -> float:
        right, up = column - (width - 1) / 2, (height - 1) / 2 - row
        # The inverse turn, clockwise.
        from_right, from_up = c * right + s * up, -s * right + c * up
        r, k = (height - 1) / 2 - from_up, from_right + (width - 1) / 2
        r0, k0 = math.floor(r), math.floor(k)
        a, b = r - r0, k - k0
        upper = (1 - b) * at(r0, k0) + b * at(r0, k0 + 1)
        lower = (1 - b) * at(r0 + 1, k0) + b * at(r0 + 1, k0 + 1)
        return (1 - a) * upper + a * lower

    return [[value(row, column) for column in range(width)] for row in range(height)]


@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_a_quarter_turn_moves_bytes_exactly_counter_clockwise(quarter):
    x = images()
    assert torch.equal(rotate(x, 90 * quarter), x.rot90(quarter, (2, 3)))


@pytest.mark.parametrize(("height", "width"), [(7, 7), (8, 8), (5, 9)])
@pytest.mark.parametrize("degrees", [10.0, 36.0, 135.0, -20.0])
def test_other_angles_agree_with_bilinear_reading_pixel_by_pixel(height, width, degrees):
    x = images(2, 1, height, width, torch.float64)
    for image, turned in zip(x, rotate(x, degrees), strict=True):
        expected = torch.tensor(bilinear(image[0].tolist(), degrees), dtype=torch.float64)
        torch.testing.assert_close(turned[0], expected, atol=1e-3, rtol=0)


def test_bytes_are_rounded_not_cut():
    x = images()
    exact = rotate(x.double(), 30)
    assert rotate(x, 30).dtype == torch.uint8
    assert float((rotate(x, 30).double() - exact).abs().max()) <= 0.51


def test_no_turn_is_the_very_same_images():
    x = images()
    assert rotate(x, 0) is x
    assert rotate(x, 360) is x


def test_turning_piece_by_piece_is_turning_at_once(monkeypatch):
    x = images(11)
    whole = rotate(x, 25)
    monkeypatch.setattr(domains, "ROTATED_AT_ONCE", 4 * 49)
    assert torch.equal(rotate(x, 25), whole)


def test_vectors_cannot_be_turned():
    with pytest.raises(DataError, match=r"Only images.*\(12,\)"):
        rotate(torch.zeros(3, 12), 10)


def test_permuted_pixels_are_the_same_pixels_and_all_examples_change_alike():
    x = images(channels=1)
    order = torch.randperm(49, generator=torch.Generator().manual_seed(0))
    changed = permute(x, order)
    assert changed.shape == x.shape
    assert changed.dtype == x.dtype
    for before, after in zip(x, changed, strict=True):
        assert after.flatten().tolist() == [before.flatten()[i] for i in order]


def test_the_channels_of_a_pixel_stay_together():
    x = images()
    order = torch.randperm(49, generator=torch.Generator().manual_seed(0))
    changed = permute(x, order).flatten(2)
    for place, source in enumerate(order.tolist()):
        assert torch.equal(changed[:, :, place], x.flatten(2)[:, :, source])


def test_the_inverse_order_restores_the_input():
    x = images()
    order = torch.randperm(49, generator=torch.Generator().manual_seed(0))
    assert torch.equal(permute(permute(x, order), order.argsort()), x)


@pytest.mark.parametrize(("shape", "count"), [((3, 7, 5), 35), ((12,), 12), ((4, 6), 24)])
def test_pixels_counts_places_not_channels(shape, count):
    assert pixels(shape) == count
    order = torch.arange(count).flip(0)
    assert permute(torch.zeros(2, *shape), order).shape == (2, *shape)
