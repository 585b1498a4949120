"""Paired comparison: how sure a difference between two models on the same examples is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from holdfast.errors import UsageError, at_least

RESAMPLES = 10_000
_DRAWS = 2**22
"""So many examples are drawn at a time."""


@dataclass(frozen=True)
class Difference:
    """A difference, tuned minus base, with its 95 % interval.

    Attributes:
        value: As observed.
        low: Lower end of the interval; NaN for a single example.
        high: Upper end.
        p: Two-sided: how often so one-sided a result would come by chance of the examples; NaN
            likewise.
        examples: Number of examples.
    """

    value: float
    low: float
    high: float
    p: float
    examples: int

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(
    base: ArrayLike,
    tuned: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """The difference of two means over the same examples, with a percentile bootstrap interval.

    Examples are drawn with replacement, each time both models' values together, so that what is
    hard for both does not blur the difference. The interval holds the middle 95 % of the
    differences so found. p is twice the smaller share of them on one side of 0, with 0 on either
    side counted (one is added to count and total, so that p is never 0).

    Args:
        base: One value an example.
        tuned: Likewise.
        weights: The means are sum of values by sum of weights (values being sums themselves: the
            log-probability of a text and its tokens); None: plain means.
        resamples: How many draws.
        seed: Of the draws.

    Raises:
        UsageError: If the lists are empty or differ in length.

    Source: Efron and Tibshirani, "An introduction to the bootstrap" (1993), chapters 13 and 16.

    Example:
        >>> paired_bootstrap([1, 1, 0, 1], [1, 1, 0, 1])
        Difference(value=0.0, low=0.0, high=0.0, p=1.0, examples=4)
    """
    at_least(1, resamples=resamples)
    a, b = np.asarray(base, dtype=float), np.asarray(tuned, dtype=float)
    w = np.ones_like(a) if weights is None else np.asarray(weights, dtype=float)
    if not a.shape == b.shape == w.shape or a.ndim != 1 or not len(a):
        raise UsageError(
            f"Two models are compared on the same examples; given: {a.shape} and {b.shape} values "
            f"with {w.shape} weights."
        )
    difference, n = b - a, len(a)
    value = float(difference.sum() / w.sum())
    if n == 1:
        return Difference(value, float("nan"), float("nan"), float("nan"), 1)
    drawn = _resampled(difference, w, resamples, np.random.default_rng(seed))
    low, high = np.quantile(drawn, [0.025, 0.975])
    side = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return Difference(value, float(low), float(high), min(1.0, 2 * (side + 1) / (resamples + 1)), n)


def _resampled(
    values: NDArray[np.float64],
    weights: NDArray[np.float64],
    resamples: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """`[resamples]` weighted means of examples drawn with replacement."""
    n = len(values)
    kinds, counts = np.unique(np.stack([values, weights]), axis=1, return_counts=True)
    if 16 * kinds.shape[1] < n:
        # Right or wrong has three kinds of example: how often each is drawn is multinomial.
        times = rng.multinomial(n, counts / n, size=resamples)
        means: NDArray[np.float64] = (times @ kinds[0]) / (times @ kinds[1])
        return means
    means = np.empty(resamples)
    step = max(1, _DRAWS // n)
    for start in range(0, resamples, step):
        rows = rng.integers(n, size=(min(step, resamples - start), n))
        means[start : start + step] = values[rows].sum(1) / weights[rows].sum(1)
    return means
