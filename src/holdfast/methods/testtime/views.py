"""Random views of images: the augmentation over which CoTTA averages its teacher.

Written with one grid and a few slices, so that a view of a whole batch is a handful of kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast.augment import brightness, turned_hue

Uniform = Callable[[float, float], Tensor]
"""Draws between two bounds, one for all images or one for each."""

BRIGHTNESS, CONTRAST, SATURATION = (0.6, 1.4), (0.7, 1.3), (0.5, 1.5)
HUE, GAMMA = (-0.06, 0.06), (0.7, 1.3)
DEGREES, SHIFT, SCALE = 15.0, 1 / 8, (0.9, 1.1)
"""`SHIFT` is a share of the image: 1/16 of one that has been padded to twice its size."""
BLUR, NOISE = (0.001, 0.5), 0.005
REACH = 2
"""Of the blur, in pixels."""


def random_view(
    x: Tensor, generator: torch.Generator, per_image: bool = False, mirror: bool = True
) -> Tensor:
    """Images changed at random in colour, place and sharpness.

    In this order: brightness, contrast, saturation, hue and gamma in random order (grey images
    have neither saturation nor hue); a rotation of up to 15 degrees, a shift and a scale, with the
    edge repeated beyond it; a slight blur; mirrored or not; faint noise.

    Args:
        x: (examples, channels, height, width), floats from 0 to 1; what lies outside is clipped.
        generator: Draws everything.
        per_image: Whether every image has draws of its own; if not, one draw serves all.
        mirror: Whether half of the views are mirrored.

    Returns:
        Of the same shape, from 0 to 1.

    Source: as in the official code of Wang et al., "Continual test-time domain adaptation" (2022).
    """
    draws = len(x) if per_image else 1

    def uniform(low: float, high: float) -> Tensor:
        draw = torch.rand(draws, 1, 1, 1, generator=generator, device=x.device)
        return low + (high - low) * draw

    x = _jittered(x.clamp(0, 1), uniform, generator)
    x = _moved(x, uniform)
    x = _blurred(x, uniform(*BLUR))
    if mirror:
        x = torch.where(uniform(0, 1) < 0.5, x.flip(-1), x)
    noise = torch.randn(x.shape, generator=generator, device=x.device)
    return (x + NOISE * noise).clamp(0, 1)


def _jittered(x: Tensor, uniform: Uniform, generator: torch.Generator) -> Tensor:
    """The five changes of colour, in random order."""
    order = torch.randperm(5, generator=generator, device=generator.device).tolist()
    coloured = x.shape[1] == 3
    for change in order:
        if change == 0:
            x = (x * uniform(*BRIGHTNESS)).clamp(0, 1)
        elif change == 1:
            x = x.lerp(brightness(x).mean((2, 3), keepdim=True), 1 - uniform(*CONTRAST)).clamp(0, 1)
        elif change == 2 and coloured:
            x = x.lerp(brightness(x), 1 - uniform(*SATURATION)).clamp(0, 1)
        elif change == 3 and coloured:
            x = turned_hue(x, uniform(*HUE))
        elif change == 4:
            x = x.clamp(1e-8, 1) ** uniform(*GAMMA)
    return x


def _moved(x: Tensor, uniform: Uniform) -> Tensor:
    """Turned, shifted and scaled about the centre; larger by the reach of the blur on all sides."""
    height, width = x.shape[2:]
    angle = uniform(-math.radians(DEGREES), math.radians(DEGREES))[..., 0]
    scale = uniform(*SCALE)[..., 0]
    # Whole pixels, as the official code has it.
    down, right = ((uniform(-1, 1)[..., 0] * SHIFT * s).round() for s in (height, width))
    rows = torch.arange(-REACH, height + REACH, device=x.device, dtype=x.dtype)
    columns = torch.arange(-REACH, width + REACH, device=x.device, dtype=x.dtype)
    y = rows[None, :, None] - (height - 1) / 2 - down
    z = columns[None, None, :] - (width - 1) / 2 - right
    cosine, sine = angle.cos() / scale, angle.sin() / scale
    from_row, from_column = cosine * y - sine * z, sine * y + cosine * z
    grid = torch.stack([2 * from_column / width, 2 * from_row / height], -1)
    return F.grid_sample(
        x,
        grid.expand(len(x), -1, -1, -1),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )


def _blurred(x: Tensor, sigma: Tensor) -> Tensor:
    """Blurred by five taps along both axes, of which the outer ones are cut off."""
    taps = torch.arange(-REACH, REACH + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (taps / sigma) ** 2)
    kernel = kernel / kernel.sum(-1, keepdim=True)
    for axis in (2, 3):
        size = x.shape[axis] - 2 * REACH
        parts = [kernel[..., k : k + 1] * x.narrow(axis, k, size) for k in range(2 * REACH + 1)]
        x = torch.stack(parts).sum(0)
    return x
