"""Selections relaxed to weights between 0 and 1 of a fixed sum, and the way back to them."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.errors import UsageError

TOLERANCE = 1e-5
"""How near the threshold is found; the sum of the weights is then made exact."""

HALVINGS = 100


def project(values: Float[Tensor, " entries"], total: float) -> Float[Tensor, " entries"]:
    """The nearest point with entries between 0 and 1 whose sum is `total`.

    It is clip(values - mu, 0, 1) with the mu for which the sum is right, found by bisection on
    [min(values) - 1, max(values)]; the last step is exact, because between two breakpoints the sum
    is linear in mu.

    Args:
        values: Any numbers.
        total: At least 0, at most as many as there are values.

    Raises:
        UsageError: If `total` is out of range.

    Example:
        >>> project(torch.tensor([2.0, 0.5, 0.1, -1.0]), 2).tolist()
        [1.0, 0.699999988079071, 0.30000001192092896, 0.0]
    """
    if not 0 <= total <= len(values):
        raise UsageError(f"total must lie between 0 and {len(values)}; given: {total:g}.")
    exact = values.double()
    low, high = exact.min() - 1, exact.max()
    for _ in range(HALVINGS):
        if float(high - low) <= TOLERANCE:
            break
        middle = (low + high) / 2
        over = (exact - middle).clamp(0, 1).sum() > total
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    mu = (low + high) / 2
    inside = (exact - mu > 0) & (exact - mu < 1)
    free = inside.sum()
    excess = (exact - mu).clamp(0, 1).sum() - total
    mu = torch.where(free > 0, mu + excess / free.clamp_min(1), mu)
    return (exact - mu).clamp(0, 1).to(values.dtype)


def largest(weights: Float[Tensor, " entries"], count: int) -> Int[Tensor, " count"]:
    """The entries with the largest weights, in order of their places."""
    return weights.topk(count).indices.sort().values


def binary(weights: Float[Tensor, " entries"], count: int) -> Float[Tensor, " entries"]:
    """1 at the largest weights, 0 elsewhere."""
    whole = torch.zeros_like(weights)
    whole[largest(weights, count)] = 1
    return whole
