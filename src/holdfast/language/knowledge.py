"""What new knowledge cost in old: FUAR and the change on unrelated sets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from holdfast.errors import UsageError

Facts = NDArray[np.bool_]


class Trade(NamedTuple):
    """Facts lost and facts won, each counted.

    Attributes:
        lost: Facts that should not have changed, told before and no longer.
        invariant: Of so many that were told before.
        updated: Facts that changed, told anew now and not before.
        new: Facts that are new, told now and not before.
        ratio: `lost / (updated + new)`: how many are lost for one that is won; infinite if none is
            won and some are lost, NaN if neither.
    """

    lost: int
    invariant: int
    updated: int
    new: int
    ratio: float


def fuar(
    invariant: tuple[ArrayLike, ArrayLike],
    updated: tuple[ArrayLike, ArrayLike],
    new: tuple[ArrayLike, ArrayLike],
) -> Trade:
    """Forgotten by updated and acquired: the trade of a model's facts for new ones.

        FUAR = #(invariant: right, then wrong)
               / (#(updated: wrong, then right) + #(new: wrong, then right))

    Args:
        invariant: Whether each fact that should stay was told right, before and after.
        updated: Likewise of facts that changed, by their new answers.
        new: Likewise of facts that are new.

    Raises:
        UsageError: If before and after are not of the same facts.

    Source: Jang et al., "Towards Continual Knowledge Learning of Language Models" (2022).

    Differs from the paper: it takes differences of scores of whole sets, of which what rose in one
    fact hides what fell in another; here facts are counted one by one.

    Example:
        >>> fuar(([1, 1, 1], [1, 0, 1]), ([0, 0], [1, 1]), ([0, 0], [1, 0]))
        Trade(lost=1, invariant=3, updated=2, new=1, ratio=0.3333333333333333)
    """
    before, after = _told("invariant", invariant)
    lost = int((before & ~after).sum())
    anew, more = (int((~b & a).sum()) for b, a in (_told("updated", updated), _told("new", new)))
    won = anew + more
    ratio = lost / won if won else (math.inf if lost else math.nan)
    return Trade(lost, int(before.sum()), anew, more, ratio)


def x_delta(before: Sequence[float], after: Sequence[float]) -> float:
    """Mean change of scores on sets that have nothing to do with what was learned.

    Args:
        before: A score for every set, higher better.
        after: The same afterwards.

    Raises:
        UsageError: If there are no sets, or not as many after as before.

    Example:
        >>> x_delta([0.5, 0.8], [0.4, 0.8])
        -0.04999999999999999
    """
    if not before or len(before) != len(after):
        raise UsageError(
            f"x_delta compares the same sets before and after; given: {len(before)} and "
            f"{len(after)} scores."
        )
    return sum(a - b for b, a in zip(before, after, strict=True)) / len(before)


def _told(name: str, pair: tuple[ArrayLike, ArrayLike]) -> tuple[Facts, Facts]:
    before, after = (np.asarray(half).astype(bool) for half in pair)
    if before.shape != after.shape or before.ndim != 1:
        raise UsageError(
            f"The {name} facts must be the same before and after; given shapes {before.shape} and "
            f"{after.shape}."
        )
    return before, after
