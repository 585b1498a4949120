"""Noise: what a sensor adds of its own."""

from __future__ import annotations

import torch
from torch import Tensor

Images = Tensor
"""(examples, channels, height, width), floats from 0 to 1."""


def gaussian_noise(x: Images, severity: int, generator: torch.Generator) -> Images:
    """Normal noise on every value: poor light."""
    deviation = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    return x + deviation * _normal(x, generator)


def shot_noise(x: Images, severity: int, generator: torch.Generator) -> Images:
    """Poisson noise: light comes in so many quanta at full brightness."""
    quanta = (500, 250, 100, 75, 50)[severity - 1]
    return torch.poisson(x * quanta, generator) / quanta


def impulse_noise(x: Images, severity: int, generator: torch.Generator) -> Images:
    """A share of the values at 0 or 1, with equal chances: bit errors."""
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    hit = torch.rand(x.shape, generator=generator, device=x.device) < share
    salt = torch.rand(x.shape, generator=generator, device=x.device) < 0.5
    return torch.where(hit, salt.to(x), x)


def _normal(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=generator, device=x.device)
