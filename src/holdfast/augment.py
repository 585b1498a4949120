"""Augmentation: random changes to whole batches of images, on the device they are on.

Written with gathers instead of a library's modules, because those read their draws back to the
host, which waits for the device at every step, and change bytes into floats and back.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
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
    _chance("flip", p)

    def mirrored(x: Tensor) -> Tensor:
        turned = torch.rand(len(x), 1, 1, 1, device=x.device) < p
        return torch.where(turned, x.flip(-1), x)

    return mirrored


def resized_crop(least: float = 0.2) -> Transform:
    """A part of each image, of at least the share `least` of its area, stretched to the whole.

    Its sides stand in a ratio from 3:4 to 4:3 of the image's own.
    """
    if not 0 < least <= 1:
        raise UsageError(
            f"least of augmentation 'resized_crop' must be above 0 and at most 1; given: {least}."
        )

    def stretched(x: Tensor) -> Tensor:
        area, ratio, right, down = torch.rand(4, len(x), device=x.device)
        area = least + (1 - least) * area
        ratio = torch.exp((2 * ratio - 1) * math.log(4 / 3))
        wide, high = ((area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1))
        none = torch.zeros_like(wide)
        rows = [wide, none, (2 * right - 1) * (1 - wide), none, high, (2 * down - 1) * (1 - high)]
        place = torch.stack(rows, 1).view(-1, 2, 3)
        floats = x if x.is_floating_point() else x.float()
        grid = F.affine_grid(place.to(floats), list(x.shape), align_corners=False)
        return _as(F.grid_sample(floats, grid, padding_mode="border", align_corners=False), x)

    return stretched


def jitter(strength: float = 0.4, p: float = 0.8) -> Transform:
    """Each image changed in colour with probability `p`: bytes, or floats from 0 to 1.

    Brightness, contrast and saturation are multiplied by factors from 1 - `strength` to
    1 + `strength`, and hues turned by up to a quarter of it of the circle, in random order. Images
    that are not of three channels have neither saturation nor hue.
    """
    if not 0 <= strength <= 1:
        raise UsageError(
            f"strength of augmentation 'jitter' must be from 0 to 1; given: {strength}."
        )
    _chance("jitter", p)

    def coloured(x: Tensor) -> Tensor:
        unit = _unit(x)
        draws = torch.rand(5, len(x), 1, 1, 1, device=x.device).to(unit)
        factor, changed = 1 + strength * (2 * draws[:3] - 1), draws[4] < p
        made = unit
        for change in torch.randperm(4).tolist():  # on the host, whose draws wait for no device
            if change == 0:
                made = made * factor[0]
            elif change == 1:
                made = brightness(made).mean((2, 3), keepdim=True).lerp(made, factor[1])
            elif change == 2 and x.shape[1] == 3:
                made = brightness(made).lerp(made, factor[2])
            elif change == 3 and x.shape[1] == 3:
                made = turned_hue(made, strength / 4 * (2 * draws[3] - 1))
            made = made.clamp(0, 1)
        return torch.where(changed, _as(made, x, from_unit=True), x)

    return coloured


def grey(p: float = 0.2) -> Transform:
    """Each image without its colours with probability `p`."""
    _chance("grey", p)

    def colourless(x: Tensor) -> Tensor:
        chosen = torch.rand(len(x), 1, 1, 1, device=x.device) < p
        return torch.where(chosen, _as(brightness(x.float()), x).expand_as(x), x)

    return colourless


AUGMENTATIONS: dict[str, Callable[..., Transform]] = {
    "crop": crop,
    "flip": flip,
    "resized_crop": resized_crop,
    "jitter": jitter,
    "grey": grey,
}


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
        text: `crop(padding=4)`, `flip(p=0.5)`, `resized_crop(least=0.2)`,
            `jitter(strength=0.4, p=0.8)`, `grey(p=0.2)`, or several joined by `+`, in the order
            they act.

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


def cutmix(
    x: Float[Tensor, "examples channels height width"],
    p: float = 1.0,
    alpha: float = 1.0,
    groups: Int[Tensor, " examples"] | None = None,
) -> tuple[Tensor, Int[Tensor, " examples"], Float[Tensor, ""]]:
    """Each image with a box of another's in it: one box for the whole batch, partners at random.

    The box has the share 1 - lambda of the image's area, lambda from Beta(alpha, alpha), around a
    pixel drawn anywhere, and is cut off at the edge.

    Args:
        x: Images.
        p: Chance that the batch is mixed at all.
        alpha: Above 0; 1: every lambda is equally likely.
        groups: Whose partners must be of the same number; others stay whole. None: of one group.

    Returns:
        The mixed images; each one's partner; and the share of an image that is still its own, by
        which its own label counts, its partner's by the rest.

    Source: Yun et al., "CutMix: regularization strategy to train strong classifiers with
    localizable features" (2019).
    """
    height, width = x.shape[2:]
    device = x.device
    coin, down, right = torch.rand(3, device=device)
    concentration = torch.full((2,), alpha, device=device)
    mixed, kept = torch._standard_gamma(concentration)  # Beta is a ratio of the two
    side = (mixed / (mixed + kept)).sqrt() * (coin < p)
    inside = _within(height, down, side)[:, None] & _within(width, right, side)
    partner = torch.randperm(len(x), device=device)
    if groups is not None:
        own = torch.arange(len(x), device=device)
        partner = torch.where(groups[partner] == groups, partner, own)
    share = 1 - inside.float().mean()
    return torch.where(inside, x[partner], x), partner, share


def _within(length: int, centre: Tensor, side: Tensor) -> Tensor:
    """Which of `length` pixels lie within half a side, rounded down, of a pixel."""
    half = (length * side / 2).floor()
    middle = (length * centre).floor()
    pixel = torch.arange(length, device=side.device)
    return (pixel >= middle - half) & (pixel < middle + half)


def brightness(x: Tensor) -> Tensor:
    """Brightness as the eye weighs colours, one channel; the mean of other than three channels."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    weights = torch.tensor([0.2989, 0.587, 0.114], device=x.device, dtype=x.dtype)
    return (x * weights.view(1, 3, 1, 1)).sum(1, keepdim=True)


def turned_hue(x: Tensor, turn: Tensor) -> Tensor:
    """Colours turned about the grey axis of hue, saturation and value.

    Args:
        x: (examples, 3, height, width) from 0 to 1.
        turn: In turns, to be broadcast.
    """
    value, spread = x.amax(1, keepdim=True), x.amax(1, keepdim=True) - x.amin(1, keepdim=True)
    red, green, blue = x.split(1, 1)
    safe = spread.clamp(min=1e-12)
    sixth = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sixth = sixth + 6 * turn
    parts = []
    for start in (5, 3, 1):
        place = (start + sixth) % 6
        parts.append(value - spread * torch.minimum(place, 4 - place).clamp(0, 1))
    return torch.cat(parts, 1)


def _chance(name: str, p: float) -> None:
    if not 0 <= p <= 1:
        raise UsageError(f"p of augmentation {name!r} must be from 0 to 1; given: {p}.")


def _unit(x: Tensor) -> Tensor:
    """From 0 to 1: bytes by their largest, floats as they are."""
    return x if x.is_floating_point() else x.float() / 255


def _as(made: Tensor, like: Tensor, from_unit: bool = False) -> Tensor:
    """Floats in the type of `like`: rounded, if those are bytes."""
    if like.is_floating_point():
        return made.to(like.dtype)
    return (made * 255 if from_unit else made).round().to(like.dtype)
