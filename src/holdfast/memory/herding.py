"""Herding: the few examples whose mean stays closest to the mean of all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.data import Table
from holdfast.memory.buffer import Buffer

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Stream


def herding_order(features: Float[Tensor, "examples width"], count: int) -> Int[Tensor, " count"]:
    """The first `count` examples in herding order.

    Example k is the one that brings the mean of the first k closest to the mean of all features,
    so every prefix of the order is itself a good summary, and shrinking means cutting the tail.

    Args:
        features: Normalised as the caller wants them compared.
        count: At most the number of examples.

    Source: Welling, "Herding dynamical weights to learn" (2009), as used for exemplars by Rebuffi
    et al., "iCaRL" (2017), algorithm 4.
    """
    mean = features.mean(0)
    chosen = torch.empty(count, dtype=torch.long, device=features.device)
    taken = torch.zeros(len(features), dtype=torch.bool, device=features.device)
    total = torch.zeros_like(mean)
    for k in range(count):
        distance = (mean - (total + features) / (k + 1)).square().sum(1)
        best = distance.masked_fill(taken, torch.inf).argmin()
        chosen[k] = best
        taken[best] = True
        total += features[best]
    return chosen


def herding_rank(
    features: Float[Tensor, "examples width"], labels: Int[Tensor, " examples"], count: int
) -> Float[Tensor, " examples"]:
    """Each example's place in its class's herding order; infinity past the first `count`."""
    rank = torch.full((len(labels),), torch.inf, dtype=torch.float64, device=features.device)
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        length = min(count, len(members))
        order = members[herding_order(features[members], length)]
        rank[order] = torch.arange(length, device=features.device, dtype=torch.float64)
    return rank


def keep_herded(buffer: Buffer, learner: Learner, table: Table) -> None:
    """Offer a table to a buffer in the herding order of the learner's unit features.

    A buffer whose storage is not `"herding"` is left alone: it was filled on the way.
    """
    if buffer.storage != "herding":
        return
    table = table.to(learner.device)
    features = F.normalize(learner.features(table))
    rank = herding_rank(features, table["y"], buffer.capacity)
    buffer.add(table.columns, learner.generator, key=rank)


def endless(name: str, storage: str, stream: Stream) -> str | None:
    """Why a method that herds cannot serve a stream that does not tell where experiences end.

    Example:
        >>> from holdfast import streams
        >>> endless("ER", "herding", streams.build("gaussian-digits"))  # doctest: +ELLIPSIS
        "ER herds when an experience ends, and 'gaussian-digits' does not tell where: ..."
    """
    if storage != "herding" or stream.boundaries:
        return None
    return (
        f"{name} herds when an experience ends, and {stream.name!r} does not tell where: use "
        "storage='reservoir'."
    )
