"""Weather: snow, frost and fog, all drawn, none from pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast.streams.corruptions.blur import unit
from holdfast.streams.corruptions.filters import gaussian_blur, grey, plasma, smeared, zoomed
from holdfast.streams.corruptions.noise import Images


def snow(x: Images, severity: int, generator: torch.Generator) -> Images:
    """Whitened, with flakes that fall aslant."""
    table = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )
    mean, deviation, zoom, least, radius, sigma, kept = table[severity - 1]
    shape = (len(x), 1, *x.shape[2:])
    flakes = mean + deviation * torch.randn(shape, generator=generator, device=x.device)
    flakes = zoomed(flakes, zoom)
    flakes = torch.where(flakes < least, 0.0, flakes).clamp(0, 1)
    turn = -135 + 90 * torch.rand(len(x), generator=generator, device=x.device)
    flakes = smeared(flakes, radius * unit(x), sigma * unit(x), turn)
    x = kept * x + (1 - kept) * torch.maximum(x, 1.5 * grey(x) + 0.5)
    return x + flakes + flakes.flip((2, 3))


def frost(x: Images, severity: int, generator: torch.Generator) -> Images:
    """Ice on the window: crystals over a dimmed image."""
    kept, ice = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[severity - 1]
    return kept * x + ice * crystals(x, generator)


def crystals(x: Images, generator: torch.Generator) -> Tensor:
    """A texture of ice for each image: bright ridges of two plasmas over a pale, bluish ground."""
    examples, _, height, width = x.shape
    broad, fine = (plasma(examples, height, width, decay, generator) for decay in (2.0, 1.6))
    ridges = torch.maximum(1 - (2 * broad - 1).abs() * 4, 1 - (2 * fine - 1).abs() * 4).clamp(0, 1)
    ice = (0.35 + 0.3 * broad + 0.5 * gaussian_blur(ridges, 0.5 * unit(x))).clamp(0, 1)
    if x.shape[1] != 3:
        return ice.expand(-1, x.shape[1], -1, -1)
    tint = torch.tensor([0.88, 0.96, 1.0], device=x.device).view(1, 3, 1, 1)
    return ice * tint


def fog(x: Images, severity: int, generator: torch.Generator) -> Images:
    """Clouds added, and the whole dimmed so that its brightest stays."""
    thick, decay = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))[severity - 1]
    clouds = plasma(len(x), x.shape[2], x.shape[3], decay, generator)
    brightest = x.amax((1, 2, 3), keepdim=True)
    return (x + thick * clouds) * brightest / (brightest + thick)
