"""Weights of a head made comparable between old and new classes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Alignment = Literal["mean_norm", "unit_norm", "none"]


@torch.no_grad()
def align_new_rows(
    weight: Tensor,
    old: list[int],
    new: list[int],
    how: Alignment = "mean_norm",
    factor: float = 1.0,
    only_shrink: bool = False,
) -> float:
    """Rescale the rows of new classes to the length of the old ones', in place.

    Args:
        weight: Of a linear head, one row a class.
        old: Rows of earlier classes; `new`: rows to rescale.
        how: `"mean_norm"`: all new rows by one factor, mean old norm / mean new norm, so that
            their order and ratios stay; `"unit_norm"`: every row, old and new, to length 1 (the
            ablated alternative); `"none"`: nothing.
        factor: Multiplies the scale.
        only_shrink: Leave rows alone that would be lengthened (not in the paper).

    Returns:
        gamma, the mean old norm over the mean new norm; 1 if all new rows are zero.

    Source: Zhao et al., "Maintaining discrimination and fairness in class incremental learning"
    (2020).
    """
    norms = weight.norm(dim=1)
    old_norm, new_norm = float(norms[old].mean()), float(norms[new].mean())
    gamma = old_norm / new_norm if new_norm > 0 else 1.0
    if how == "unit_norm":
        weight[old + new] /= norms[old + new].clamp(min=1e-12)[:, None]
    elif how == "mean_norm" and not (only_shrink and gamma * factor > 1):
        weight[new] *= gamma * factor
    return gamma
