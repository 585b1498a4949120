"""Views and projections of a whole model's gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.optim.quadratic import least_above


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


def within_cone(
    gradient: Float[Tensor, " values"],
    references: Float[Tensor, "constraints values"],
    margin: float = 0.0,
    ridge: float = 1e-3,
) -> Float[Tensor, " values"]:
    """The gradient itself if it opposes no reference, or the nearest vector that opposes none.

    The programme in as many variables as there are references,

        min over v >= margin of 1/2 v'(GG' + ridge I)v + (Gg)'v,   g <- G'v + g.

    Args:
        gradient: g.
        references: The rows of G.
        margin: Least share of every reference in what is added.
        ridge: So that references may repeat one another; a millionth of the largest squared length
            is added to it, as much as single precision leaves uncertain.

    Source: Lopez-Paz and Ranzato, "Gradient episodic memory for continual learning" (2017), eq. 11.

    Example:
        >>> found = within_cone(torch.tensor([1.0, -1.0]), torch.tensor([[0.0, 2.0]]), ridge=0)
        >>> torch.allclose(found, torch.tensor([1.0, 0.0]), atol=1e-5)
        True
    """
    overlaps = references @ gradient
    products = (references @ references.T).double()
    products.diagonal().add_(ridge + 1e-6 * products.diagonal().amax())
    shares = least_above(products, overlaps, margin).to(gradient)
    return torch.where((overlaps < 0).any(), gradient + shares @ references, gradient)
