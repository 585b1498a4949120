"""What changes from domain to domain: the order of the pixels, or the angle of the image."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Int, Shaped
from torch import Tensor

from holdfast.errors import DataError

ROTATED_AT_ONCE = 2**26
"""Pixels rotated in one piece: a quarter of a gigabyte as floats."""


def permute(
    x: Shaped[Tensor, "examples ..."], order: Int[Tensor, " pixels"]
) -> Shaped[Tensor, "examples ..."]:
    """Put pixel `order[i]` in the place of pixel i, in every example alike.

    The channels of a pixel stay together; for feature vectors, a pixel is a feature.

    Args:
        x: Images (examples, channels, height, width), or anything else by its flat features.
        order: A permutation of the pixels; see `pixels`.

    Example:
        >>> permute(torch.tensor([[10, 20, 30]]), torch.tensor([2, 0, 1])).tolist()
        [[30, 10, 20]]
    """
    if x.dim() == 4:
        return x.flatten(2).index_select(2, order).view(x.shape)
    return x.flatten(1).index_select(1, order).view(x.shape)


def pixels(shape: tuple[int, ...]) -> int:
    """How many things there are to permute in an input of this shape (without the examples)."""
    return math.prod(shape[1:] if len(shape) == 3 else shape)


def rotate(
    x: Shaped[Tensor, "examples channels height width"], degrees: float
) -> Shaped[Tensor, "examples channels height width"]:
    """Turn images counter-clockwise about their centre, bilinearly, zeros beyond the edge.

    The type is kept: bytes are rounded to bytes.

    Args:
        x: Images.
        degrees: The angle.

    Raises:
        DataError: If `x` is not images.

    Example:
        >>> image = torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8)
        >>> rotate(image, 90).tolist()
        [[[[2, 4], [1, 3]]]]
    """
    if x.dim() != 4:
        raise DataError(
            "Only images (channels, height, width) can be rotated; the inputs have shape "
            f"{tuple(x.shape[1:])}."
        )
    if degrees % 360 == 0:
        return x
    height, width = x.shape[2:]
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # Where each pixel of the result comes from, in coordinates from -1 to 1 along both axes;
    # the ratios keep the angle true in images that are not square.
    turn = torch.tensor(
        [[cosine, -sine * height / width, 0.0], [sine * width / height, cosine, 0.0]],
        device=x.device,
    )
    grid = F.affine_grid(turn[None], [1, 1, height, width], align_corners=False)
    flat = x.reshape(1, -1, height, width)
    # One grid serves every image when the images are the channels of one.
    result = torch.empty_like(flat)
    for start in range(0, flat.shape[1], step := max(1, ROTATED_AT_ONCE // (height * width))):
        piece = flat[:, start : start + step]
        turned = F.grid_sample(
            piece if piece.is_floating_point() else piece.float(),
            grid.to(piece.dtype if piece.is_floating_point() else torch.float32),
            mode="bilinear",
            padding_mode="zeros",
            align_corners=False,
        )
        result[:, start : start + step] = turned if x.is_floating_point() else turned.round()
    return result.view(x.shape)
