"""What processing does: brightness, contrast, elastic warps, pixels, JPEG."""

from __future__ import annotations

import io

import numpy as np
import torch
from torch import Tensor

from holdfast.streams.corruptions.filters import gaussian_blur, sampled
from holdfast.streams.corruptions.noise import Images


def brightness(x: Images, severity: int, generator: torch.Generator) -> Images:
    """The value of every colour raised, its hue and saturation kept."""
    more = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    value = x.amax(1, keepdim=True)
    raised = (value + more).clamp(max=1)
    return torch.where(value > 0, x * (raised / value.clamp(min=1e-12)), raised)


def contrast(x: Images, severity: int, generator: torch.Generator) -> Images:
    """Every channel drawn towards its mean over the image."""
    share = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    mean = x.mean((2, 3), keepdim=True)
    return mean + share * (x - mean)


def elastic(x: Images, severity: int, generator: torch.Generator) -> Images:
    """Bent: a random affine map, then smooth random displacements."""
    table = ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05))
    strength, smooth, jitter = (*table, (0.1, 0.03, 0.03))[severity - 1]
    height, width = x.shape[2:]
    size = min(height, width)
    rows = torch.arange(height, device=x.device, dtype=x.dtype)[None, :, None]
    columns = torch.arange(width, device=x.device, dtype=x.dtype)[None, None, :]
    back = _affine(x, size, jitter * size, generator)[:, :, :, None, None]
    x = sampled(
        x,
        back[:, 1, 0] * columns + back[:, 1, 1] * rows + back[:, 1, 2],
        back[:, 0, 0] * columns + back[:, 0, 1] * rows + back[:, 0, 2],
        corners=True,
    )
    if not strength:
        return x
    shape = (len(x), 2, height, width)
    draw = 2 * torch.rand(shape, generator=generator, device=x.device) - 1
    moved = gaussian_blur(draw, smooth * size, "reflect", truncate=3) * strength * size
    return sampled(x, rows + moved[:, 1], columns + moved[:, 0], corners=False)


def pixelate(x: Images, severity: int, generator: torch.Generator) -> Images:
    """Shrunk and enlarged again by boxes."""
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1]
    for axis in (2, 3):
        size = x.shape[axis]
        fewer = max(1, int(size * share))
        for box in (boxes(size, fewer), boxes(fewer, size)):
            x = (x.transpose(axis, 3) @ box.to(x).T).transpose(axis, 3)
    return x


def jpeg(x: Images, severity: int, generator: torch.Generator) -> Images:
    """Written as JPEG and read again, image by image, as Pillow does it."""
    from PIL import Image

    quality = (80, 65, 58, 50, 40)[severity - 1]
    if x.shape[1] not in (1, 3):
        parts = [jpeg(x[:, c : c + 1], severity, generator) for c in range(x.shape[1])]
        return torch.cat(parts, 1)
    pixels = (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    result = np.empty_like(pixels)
    for row, image in enumerate(pixels):
        content = io.BytesIO()
        flat = image[..., 0] if image.shape[-1] == 1 else image
        Image.fromarray(flat).save(content, "JPEG", quality=quality)
        with Image.open(content) as read:
            result[row] = np.asarray(read).reshape(image.shape)
    back: Tensor = torch.from_numpy(result).permute(0, 3, 1, 2).to(x)
    return back / 255


def boxes(before: int, after: int) -> Tensor:
    """The matrix (after, before) that resizes a line by boxes, as Pillow's filter of that name."""
    scale = max(1.0, before / after)
    centres = (np.arange(after) + 0.5) * before / after
    offset = (np.arange(before)[None, :] + 0.5 - centres[:, None]) / scale
    weights = ((offset > -0.5) & (offset <= 0.5)).astype(np.float64)
    return torch.from_numpy(weights / weights.sum(1, keepdims=True))


def _affine(x: Images, size: int, jitter: float, generator: torch.Generator) -> Tensor:
    """For each image (2, 3): from a place (column, row) of the result to one of the image.

    Three points about the centre are moved by up to `jitter` pixels, and all others with them.
    """
    centre = torch.tensor([x.shape[3] // 2, x.shape[2] // 2], dtype=x.dtype, device=x.device)
    third = size // 3
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]], device=x.device)
    before = (centre + third * corners).to(x.dtype).expand(len(x), 3, 2)
    draw = 2 * torch.rand(before.shape, generator=generator, device=x.device) - 1
    after = before + jitter * draw
    ones = torch.ones_like(after[..., :1])
    solved: Tensor = torch.linalg.solve(torch.cat([after, ones], -1), before)
    return solved.transpose(1, 2)
