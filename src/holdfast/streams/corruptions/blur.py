"""Blur: what lenses, glass and movement do. Lengths are for images of up to 47 pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast.streams.corruptions.filters import filtered, gaussian_blur, smeared, zoomed
from holdfast.streams.corruptions.noise import Images


def unit(x: Images) -> int:
    """By how much lengths in pixels, which are for images of 32, are multiplied."""
    return max(1, round(min(x.shape[2:]) / 32))


def defocus_blur(x: Images, severity: int, generator: torch.Generator) -> Images:
    """Spread over a disc."""
    radius, soft = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[severity - 1]
    return filtered(x, _disc(radius * unit(x), soft).to(x.device))


def glass_blur(x: Images, severity: int, generator: torch.Generator) -> Images:
    """Pixels take their neighbours' values at random, between two slight blurs.

    As in the published data, whose exchange of two pixels copies one of them; so that all can be
    drawn at once.
    """
    table = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))
    sigma, reach, rounds = table[severity - 1]
    sigma, reach = sigma * unit(x), reach * unit(x)
    height, width = x.shape[2:]
    x = (gaussian_blur(x, sigma) * 255).floor() / 255
    rows = torch.arange(height, device=x.device)[None, :, None]
    columns = torch.arange(width, device=x.device)[None, None, :]
    inside = (
        (rows > reach) & (rows <= height - reach) & (columns > reach) & (columns <= width - reach)
    )
    each = torch.arange(len(x), device=x.device)[:, None, None]
    for _ in range(rounds):
        shape = (2, len(x), height, width)
        offsets = torch.randint(-reach, reach, shape, generator=generator, device=x.device)
        down, right = offsets * inside
        row, column = (rows + down).clamp(max=height - 1), (columns + right).clamp(max=width - 1)
        x = x.permute(0, 2, 3, 1)[each, row, column].permute(0, 3, 1, 2)
    return gaussian_blur(x.contiguous(), sigma)


def motion_blur(x: Images, severity: int, generator: torch.Generator) -> Images:
    """Smeared along a line, up to 45 degrees from the horizontal."""
    radius, sigma = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))[severity - 1]
    turn = 90 * torch.rand(len(x), generator=generator, device=x.device) - 45
    return smeared(x, radius * unit(x), sigma * unit(x), turn)


def zoom_blur(x: Images, severity: int, generator: torch.Generator) -> Images:
    """The mean of the image and of enlargements of it: a camera that draws near."""
    steps = (6, 11, 16, 21, 26)[severity - 1]
    total = x.clone()
    for step in range(steps):
        total += zoomed(x, 1 + 0.01 * step)
    return total / (steps + 1)


def _disc(radius: float, soft: float) -> Tensor:
    """A disc of sum 1, its edge softened by a normal kernel of 3 x 3 pixels."""
    reach = int(radius) + 1
    places = torch.arange(-reach, reach + 1, dtype=torch.float64)
    disc = (places[:, None] ** 2 + places[None, :] ** 2 <= radius**2).double()
    disc = disc / disc.sum()
    near = torch.exp(-0.5 * torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64).div(soft) ** 2)
    near = near / near.sum()
    softened = torch.nn.functional.conv2d(
        disc[None, None], (near[:, None] * near[None, :])[None, None], padding=1
    )
    return softened[0, 0].float()
