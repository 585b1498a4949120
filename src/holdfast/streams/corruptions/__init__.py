"""The field's fifteen corruptions of images at five severities, for whole batches on any device.

    noise    gaussian_noise shot_noise impulse_noise
    blur     defocus_blur glass_blur motion_blur zoom_blur
    weather  snow frost fog
    digital  brightness contrast elastic pixelate jpeg

Strengths are those of CIFAR-10-C; lengths in pixels, which are for images of 32, are doubled from
48 pixels on, and so forth.

Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and
perturbations" (2019).

Differs from the paper: the ice of `frost` is drawn and not photographed; snow is not rounded to
bytes before it is smeared; nothing is rounded to bytes between steps but where the kind itself
does. So equal names mean equal operations and strengths, not equal bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import torch
from torch import Tensor

from holdfast.errors import DataError, UsageError, unknown
from holdfast.streams.corruptions.blur import defocus_blur, glass_blur, motion_blur, zoom_blur
from holdfast.streams.corruptions.digital import brightness, contrast, elastic, jpeg, pixelate
from holdfast.streams.corruptions.noise import gaussian_noise, impulse_noise, shot_noise
from holdfast.streams.corruptions.weather import fog, frost, snow

Corruption = Callable[[Tensor, int, torch.Generator], Tensor]

CORRUPTIONS: dict[str, Corruption] = {
    made.__name__: made
    for made in (
        gaussian_noise,
        shot_noise,
        impulse_noise,
        defocus_blur,
        glass_blur,
        motion_blur,
        zoom_blur,
        snow,
        frost,
        fog,
        brightness,
        contrast,
        elastic,
        pixelate,
        jpeg,
    )
}
"""By name, in the field's order."""

SEVERITIES = 5
AT_ONCE = 2**22
"""Values corrupted in one piece, which bounds the memory."""


def corrupt(x: Tensor, name: str, severity: int = 5, seed: int = 0) -> Tensor:
    """Images as they come under one corruption.

    Args:
        x: (examples, channels, height, width): bytes, or floats from 0 to 1. The type is kept:
            bytes are rounded to bytes.
        name: One of `CORRUPTIONS`.
        severity: From 1 to 5.
        seed: Draws all chance; equal seeds give equal images, and every corruption and severity
            draws its own.

    Raises:
        UsageError: If there is no such corruption or severity.
        DataError: If `x` is not images, or floats lie outside 0 .. 1.

    Example:
        >>> images = torch.rand(4, 3, 32, 32)
        >>> corrupt(images, "fog", severity=3).shape
        torch.Size([4, 3, 32, 32])
    """
    if name not in CORRUPTIONS:
        raise unknown("corruption", name, CORRUPTIONS)
    if isinstance(severity, bool) or severity not in range(1, SEVERITIES + 1):
        raise UsageError(f"severity must be a whole number from 1 to 5; given: {severity!r}.")
    if x.dim() != 4 or min(x.shape[2:]) < 4:
        raise DataError(
            "Only images (channels, height, width) of at least 4 x 4 can be corrupted; the inputs "
            f"have shape {tuple(x.shape[1:])}."
        )
    bytewise = x.dtype == torch.uint8
    if not bytewise and len(x) and not (float(x.min()) >= 0 and float(x.max()) <= 1):
        raise DataError(
            "Images to corrupt must be bytes or lie in 0 .. 1; these lie in "
            f"{float(x.min()):g} .. {float(x.max()):g}."
        )
    draws = zlib.crc32(f"{name} {severity} {seed}".encode())
    generator = torch.Generator(x.device).manual_seed(draws)
    rows = max(1, AT_ONCE // max(1, x[0].numel() if len(x) else 1))
    result = torch.empty_like(x)
    for start in range(0, len(x), rows):
        piece = x[start : start + rows]
        piece = piece.float() / 255 if bytewise else piece.float()
        made = CORRUPTIONS[name](piece, severity, generator).clamp(0, 1)
        result[start : start + rows] = (made * 255).round() if bytewise else made
    return result
