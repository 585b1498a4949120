"""Filters that several corruptions are made of: blurs, zooms, samplings, plasma."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Edge = Literal["nearest", "reflect"]
"""What lies beyond the edge: its last pixel again, or the image mirrored, that pixel included."""


def gaussian_blur(x: Tensor, sigma: float, edge: Edge = "nearest", truncate: float = 4.0) -> Tensor:
    """Each image blurred by a normal kernel.

    Args:
        x: (examples, channels, height, width).
        sigma: In pixels.
        edge: What lies beyond it.
        truncate: Reach of the kernel, in sigmas.
    """
    reach = int(truncate * sigma + 0.5)
    if reach == 0:
        return x
    offsets = torch.arange(-reach, reach + 1, device=x.device, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(x.dtype)
    flat = x.reshape(-1, 1, *x.shape[2:])
    for axis in (2, 3):
        places = beyond(x.shape[axis], reach, edge, x.device)
        shape = (1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1)
        flat = F.conv2d(flat.index_select(axis, places), kernel.view(shape))
    return flat.view(x.shape)


def beyond(size: int, reach: int, edge: Edge, device: torch.device) -> Tensor:
    """The pixels in the places `-reach .. size + reach - 1` of a line of `size`.

    Example:
        >>> beyond(3, 2, "reflect", torch.device("cpu")).tolist()
        [1, 0, 0, 1, 2, 2, 1]
    """
    places = torch.arange(-reach, size + reach, device=device)
    if edge == "nearest":
        return places.clamp(0, size - 1)
    turned = places % (2 * size)
    return torch.minimum(turned, 2 * size - 1 - turned)


def filtered(x: Tensor, kernel: Tensor) -> Tensor:
    """Each channel correlated with one small odd kernel; beyond the edge mirrored, without it."""
    reach = kernel.shape[0] // 2
    flat = x.reshape(-1, 1, *x.shape[2:])
    padded = F.pad(flat, (reach,) * 4, mode="reflect")
    return F.conv2d(padded, kernel.to(x)[None, None]).view(x.shape)


def zoomed(x: Tensor, factor: float) -> Tensor:
    """The middle of each image enlarged to the size of the whole, bilinearly."""
    height, width = x.shape[2:]
    inner = [math.ceil(size / factor) for size in (height, width)]
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    middle = x[:, :, top : top + inner[0], left : left + inner[1]]
    size = [max(full, round(part * factor)) for full, part in zip(x.shape[2:], inner, strict=True)]
    larger = F.interpolate(middle, size=size, mode="bilinear", align_corners=True)
    down, right = (size[0] - height) // 2, (size[1] - width) // 2
    return larger[:, :, down : down + height, right : right + width]


def smeared(x: Tensor, radius: float, sigma: float, degrees: Tensor) -> Tensor:
    """Each image smeared one way along a line of its own, as by a moving camera.

    Half a normal kernel of `2 * radius + 1` pixels; beyond the edge its last pixel again.

    Args:
        x: (examples, channels, height, width).
        radius: In pixels.
        sigma: In pixels.
        degrees: The direction for each example, clockwise from the right.
    """
    steps = 2 * math.ceil(radius) + 1
    at = torch.arange(steps, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (at / sigma) ** 2)
    kernel = kernel / kernel.sum()
    height, width = x.shape[2:]
    turn = torch.deg2rad(degrees)[:, None]
    down = torch.ceil(at * torch.sin(turn) - 0.5).long()
    right = torch.ceil(at * torch.cos(turn) - 0.5).long()
    rows = torch.arange(height, device=x.device)[None, :]
    columns = torch.arange(width, device=x.device)[None, :]
    result = torch.zeros_like(x)
    each = torch.arange(len(x), device=x.device)[:, None, None]
    planes = x.permute(0, 2, 3, 1)
    for step in range(steps):
        row = (rows + down[:, step, None]).clamp(0, height - 1)[:, :, None]
        column = (columns + right[:, step, None]).clamp(0, width - 1)[:, None, :]
        result += kernel[step] * planes[each, row, column].permute(0, 3, 1, 2)
    return result


def plasma(
    examples: int, height: int, width: int, decay: float, generator: torch.Generator
) -> Tensor:
    """Clouds from 0 to 1 by the diamond-square algorithm, one an example.

    Args:
        decay: By how much the roughness falls from one scale to the next finer one.

    Source: Fournier et al., "Computer rendering of stochastic models" (1982).
    """
    size = 2 ** max(1, math.ceil(math.log2(max(height, width))))
    device = generator.device
    clouds = torch.zeros(examples, size, size, device=device)
    step, rough = size, 100.0

    def placed(total: Tensor) -> Tensor:
        draw = 2 * torch.rand(total.shape, generator=generator, device=device) - 1
        return total / 4 + rough**2 * draw

    while step >= 2:
        half = step // 2
        corners = clouds[:, ::step, ::step]
        across = corners + corners.roll(-1, 1)
        clouds[:, half::step, half::step] = placed(across + across.roll(-1, 2))
        centres, corners = clouds[:, half::step, half::step], clouds[:, ::step, ::step]
        sides = centres + centres.roll(1, 1) + corners + corners.roll(-1, 2)
        clouds[:, ::step, half::step] = placed(sides)
        sides = centres + centres.roll(1, 2) + corners + corners.roll(-1, 1)
        clouds[:, half::step, ::step] = placed(sides)
        step, rough = half, rough / decay
    low, high = clouds.amin((1, 2), keepdim=True), clouds.amax((1, 2), keepdim=True)
    clouds = (clouds - low) / (high - low)
    return clouds[:, None, :height, :width]


def grey(x: Tensor) -> Tensor:
    """Brightness as the eye weighs colours, one channel."""
    if x.shape[1] != 3:
        return x[:, :1] if x.shape[1] == 1 else x.mean(1, keepdim=True)
    weights = torch.tensor([0.299, 0.587, 0.114], device=x.device, dtype=x.dtype)
    return (x * weights.view(1, 3, 1, 1)).sum(1, keepdim=True)


def sampled(x: Tensor, rows: Tensor, columns: Tensor, corners: bool) -> Tensor:
    """Bilinear samples of each image at places of its own, mirrored beyond the edge.

    Args:
        x: (examples, channels, height, width).
        rows: (examples, height, width), in pixels.
        columns: Likewise.
        corners: Whether the mirror is the last pixel's centre; if not, its outer edge.
    """
    height, width = x.shape[2:]
    if corners:
        y = 2 * rows / max(1, height - 1) - 1
        z = 2 * columns / max(1, width - 1) - 1
    else:
        y, z = (2 * rows + 1) / height - 1, (2 * columns + 1) / width - 1
    grid = torch.stack([z, y], -1)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=corners)
