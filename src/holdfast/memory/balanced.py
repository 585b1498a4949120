"""Equal numbers of every class."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor


def balanced_rows(
    labels: Int[Tensor, " examples"], generator: torch.Generator
) -> Int[Tensor, " chosen"]:
    """Of every class as many rows as the rarest has, drawn without replacement.

    Args:
        labels: Of all rows.
        generator: On their device.

    Example:
        >>> labels = torch.tensor([0, 0, 0, 0, 5, 5])
        >>> rows = balanced_rows(labels, torch.Generator().manual_seed(0))
        >>> labels[rows].sort().values.tolist()
        [0, 0, 5, 5]
    """
    order = torch.randperm(len(labels), generator=generator, device=labels.device)
    order = order[labels[order].argsort(stable=True)]  # by class, each in random order
    grouped = labels[order]
    place = torch.arange(len(labels), device=labels.device)
    rank = place - torch.searchsorted(grouped, grouped)
    rarest = labels.unique(return_counts=True)[1].min()
    return order[rank < rarest]
