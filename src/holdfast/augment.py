"""Augmentation: random changes to whole batches of images, on the device they are on.

Written with gathers instead of a library's modules, because those read their draws back to the
host, which waits for the device at every step, and change bytes into floats and back.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast.errors import DataError, UsageError, unknown
from holdfast.spec import bind, parse

Transform = Callable[[Tensor], Tensor]


def crop(padding: int = 4) -> Transform:
    """Each image moved by up to `padding` pixels either way, zeros beyond its edge."""
    if padding < 1:
        raise UsageError(f"padding of augmentation 'crop' must be at least 1; given: {padding}.")

    def moved(x: Tensor) -> Tensor:
        examples, _, height, width = x.shape
        down, right = torch.randint(2 * padding + 1, (2, examples, 1), device=x.device)
        rows = down + torch.arange(height, device=x.device)
        columns = right + torch.arange(width, device=x.device)
        padded = F.pad(x, (padding,) * 4)
        each = torch.arange(examples, device=x.device)[:, None, None]
        # Indices around a slice put their own dimensions first.
        return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    return moved


def flip(p: float = 0.5) -> Transform:
    """Each image mirrored left to right with probability `p`."""
    if not 0 <= p <= 1:
        raise UsageError(f"p of augmentation 'flip' must be from 0 to 1; given: {p}.")

    def mirrored(x: Tensor) -> Tensor:
        turned = torch.rand(len(x), 1, 1, 1, device=x.device) < p
        return torch.where(turned, x.flip(-1), x)

    return mirrored


AUGMENTATIONS: dict[str, Callable[..., Transform]] = {"crop": crop, "flip": flip}


class Augmentation:
    """Augmentations in order, each example with draws of its own.

    Draws come from PyTorch's global generator, which during training is the learner's.

    Args:
        steps: From a batch of images to a changed one.
        mirrors: Whether one of them mirrors images, so that features of a mirror image mean
            something (`icarl` averages them then).
    """

    def __init__(self, steps: Sequence[Transform], mirrors: bool = False) -> None:
        self.steps, self.mirrors = steps, mirrors

    def __call__(self, x: Tensor) -> Tensor:
        """Augmented images of the same shape, type and device.

        Raises:
            DataError: If `x` is not images (examples, channels, height, width).
        """
        if x.dim() != 4:
            raise DataError(
                "Only images (channels, height, width) can be augmented; the inputs have shape "
                f"{tuple(x.shape[1:])}."
            )
        for step in self.steps:
            x = step(x)
        return x.contiguous()


def build(text: str) -> Transform:
    """An augmentation from a spec string.

    Args:
        text: `crop(padding=4)`, `flip(p=0.5)`, or both joined by `+`, in the order they act.

    Raises:
        UsageError: If a name or an argument does not exist or is out of range.

    Example:
        >>> images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
        >>> build("crop(padding=4)+flip")(images).dtype
        torch.uint8
    """
    steps, specs = [], parse(text)
    for spec in specs:
        if spec.name not in AUGMENTATIONS:
            raise unknown("augmentation", spec.name, AUGMENTATIONS)
        make = AUGMENTATIONS[spec.name]
        steps.append(make(**bind(spec, make, "augmentation")))
    return Augmentation(steps, mirrors=any(spec.name == "flip" for spec in specs))


def entries() -> dict[str, dict[str, Any]]:
    """Every augmentation by name: its argument and default."""
    return {
        name: {n: p.default for n, p in inspect.signature(make).parameters.items()}
        for name, make in AUGMENTATIONS.items()
    }
