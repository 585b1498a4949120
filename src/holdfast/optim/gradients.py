"""Views and projections of a whole model's gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def flat(tensors: Sequence[Tensor]) -> Float[Tensor, " values"]:
    """All tensors as one vector, in order."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def shaped(vector: Float[Tensor, " values"], like: Sequence[Tensor]) -> list[Tensor]:
    """The parts of a vector in the shapes of `like`; the inverse of `flat`."""
    parts = vector.split([tensor.numel() for tensor in like])
    return [part.view_as(tensor) for part, tensor in zip(parts, like, strict=True)]


def without_conflict(
    gradient: Float[Tensor, " values"], reference: Float[Tensor, " values"]
) -> Float[Tensor, " values"]:
    """The gradient, minus its part against `reference` if the two point in opposite directions.

    Example:
        >>> without_conflict(torch.tensor([1.0, -1.0]), torch.tensor([0.0, 2.0])).tolist()
        [1.0, 0.0]
    """
    overlap = torch.dot(gradient, reference)
    length = torch.dot(reference, reference)
    share = torch.where((overlap < 0) & (length > 0), overlap / length, torch.zeros_like(overlap))
    return gradient - share * reference
