"""Augmentation: random changes to whole batches of images, on the device they are on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from holdfast.errors import DataError, UsageError, unknown
from holdfast.spec import bind, parse

Transform = Callable[[Tensor], Tensor]


def crop(padding: int = 4) -> Callable[[Tensor], nn.Module]:
    """Each image moved by up to `padding` pixels either way, zeros beyond its edge."""
    if padding < 1:
        raise UsageError(f"padding of augmentation 'crop' must be at least 1; given: {padding}.")

    def fitted(x: Tensor) -> nn.Module:
        from kornia.augmentation import RandomCrop

        # "slice" copies pixels; kornia's other mode interpolates and would blur them.
        made: nn.Module = RandomCrop(tuple(x.shape[2:]), padding=padding, cropping_mode="slice")
        return made

    return fitted


def flip(p: float = 0.5) -> Callable[[Tensor], nn.Module]:
    """Each image mirrored left to right with probability `p`."""
    if not 0 <= p <= 1:
        raise UsageError(f"p of augmentation 'flip' must be from 0 to 1; given: {p}.")

    def fitted(x: Tensor) -> nn.Module:
        from kornia.augmentation import RandomHorizontalFlip

        made: nn.Module = RandomHorizontalFlip(p=p)
        return made

    return fitted


AUGMENTATIONS: dict[str, Callable[..., Callable[[Tensor], nn.Module]]] = {
    "crop": crop,
    "flip": flip,
}


class Augmentation:
    """Augmentations in order, each example with draws of its own.

    Draws come from PyTorch's global generator, which during training is the learner's. Images of
    bytes come back as bytes.

    Args:
        steps: From a batch to the kornia module that changes batches of its shape.
    """

    def __init__(self, steps: Sequence[Callable[[Tensor], nn.Module]]) -> None:
        self.steps = steps
        self._fitted: dict[tuple[int, ...], list[nn.Module]] = {}

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
        shape = tuple(x.shape[1:])
        if shape not in self._fitted:
            self._fitted[shape] = [step(x) for step in self.steps]
        images = x if x.is_floating_point() else x.float()
        for module in self._fitted[shape]:
            images = module(images)
        return images.to(x.dtype)


def build(text: str) -> Transform:
    """An augmentation from a spec string.

    Args:
        text: `crop(padding=4)`, `flip(p=0.5)`, or both joined by `+`, in the order they act.

    Raises:
        UsageError: If a name or an argument does not exist or is out of range.

    Example:
        >>> import torch
        >>> images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
        >>> build("crop(padding=4)+flip")(images).dtype
        torch.uint8
    """
    steps = []
    for spec in parse(text):
        if spec.name not in AUGMENTATIONS:
            raise unknown("augmentation", spec.name, AUGMENTATIONS)
        make = AUGMENTATIONS[spec.name]
        steps.append(make(**bind(spec, make, "augmentation")))
    return Augmentation(steps)


def entries() -> dict[str, dict[str, Any]]:
    """Every augmentation by name: its argument and default."""
    return {
        name: {n: p.default for n, p in inspect.signature(make).parameters.items()}
        for name, make in AUGMENTATIONS.items()
    }
