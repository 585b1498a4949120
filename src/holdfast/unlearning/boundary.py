"""Across the decision boundary: the class that an example nearly is."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from holdfast.data import Batch, Table
from holdfast.evaluation import undisturbed

ROWS = 256
"""Examples a pass."""


def nearest_classes(
    model: nn.Module, table: Table, bound: float, low: float, high: float
) -> Int[Tensor, " examples"]:
    """`across` for all examples of a table, by a model in evaluation mode.

    Args:
        model: On the table's device.
        table: Columns `x` and `y`.
        bound: As in `across`, like `low` and `high`.
    """
    with undisturbed(model, device=table.device):
        return torch.cat([across(model, b, bound, low, high) for b in table.chunks(ROWS)])


def across(
    model: Callable[[Tensor], Tensor],
    batch: Batch,
    bound: float,
    low: float,
    high: float,
) -> Int[Tensor, " examples"]:
    """The class that a model sees one step of the fast gradient sign method away.

    Args:
        model: From inputs to logits.
        batch: Columns `x` and `y`.
        bound: Length of the step, as a share of `high - low`.
        low: Smallest input.
        high: Largest.

    Source: Goodfellow et al., "Explaining and harnessing adversarial examples" (2015).
    """
    raw = batch["x"]
    x = (raw if raw.is_floating_point() else raw.float()).detach().clone().requires_grad_()
    with torch.enable_grad():
        loss = F.cross_entropy(model(x), batch["y"], reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
    moved = (x.detach() + bound * (high - low) * gradient.sign()).clamp(low, high)
    if not raw.is_floating_point():
        moved = moved.round()
    with torch.no_grad():
        return model(moved).argmax(1)
