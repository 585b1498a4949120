"""Means and 95 % bands over seeds for whole series, and series made short enough to draw."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

Series = Float[NDArray[np.float64], " points"]


def mean_and_half(values: Float[NDArray[np.float64], "runs ..."]) -> tuple[Series, Series]:
    """Mean over runs, and half-width of its 95 % interval (NaN everywhere for one run).

    The same numbers as `holdfast.metrics.interval` gives point by point.
    """
    from scipy.stats import t

    runs = len(values)
    mean = values.mean(0)
    if runs < 2:
        return mean, np.full_like(mean, np.nan)
    return mean, t.ppf(0.975, runs - 1) * values.std(0, ddof=1) / math.sqrt(runs)


def thinned(values: Series, limit: int) -> Int[NDArray[np.int64], " kept"]:
    """Which points to draw of a long series: the lowest and the highest of every stretch.

    Drops are what a stability gap is, so they must survive thinning. The first and the last point
    are kept too.

    Args:
        values: The series; NaN counts as lowest.
        limit: Points wanted; a series that is no longer is kept whole.

    Example:
        >>> series = np.ones(1000)
        >>> series[500] = 0
        >>> 500 in thinned(series, 100)
        True
    """
    points = len(values)
    if points <= limit:
        return np.arange(points)
    known = np.nan_to_num(values, nan=-np.inf)
    kept = {0, points - 1}
    for part in np.array_split(np.arange(points), max(1, limit // 2)):
        kept |= {int(part[known[part].argmin()]), int(part[known[part].argmax()])}
    return np.array(sorted(kept))
