"""Truth ratio, forget quality and model utility: what unlearning is judged by.

Source: Maini et al., "TOFU: a task of fictitious unlearning for LLMs" (2024); Zhang et al.,
"Negative preference optimization" (2024), for its direction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from holdfast.errors import UsageError

Floats = NDArray[np.float64]


def truth_ratio(right: float, wrong: Sequence[float], inverse: bool = False) -> float:
    """How much likelier the right answer is than wrong ones of its kind: right over wrong.

        T = exp(mean over j of NLL(wrong_j) - NLL(right))

    Args:
        right: Mean loss of a token of the right answer, put in other words than it was learned in.
        wrong: The same of each wrong one.
        inverse: Wrong over right, as TOFU's text and some harnesses have it.

    Raises:
        UsageError: If there is no wrong answer.

    Example:
        >>> round(truth_ratio(1.0, [1.0, 3.0]), 4), round(truth_ratio(1.0, [1.0, 3.0], True), 4)
        (2.7183, 0.3679)
    """
    if not len(wrong):
        raise UsageError("A truth ratio needs wrong answers beside the right one; none was given.")
    # Of a model that has collapsed, losses may lie further apart than an exponential can hold.
    distance = min(700.0, max(-700.0, float(np.mean(wrong)) - right))
    return math.exp(-distance if inverse else distance)


def truth_kept(ratios: ArrayLike) -> float:
    """What truth ratios (right over wrong) come to on what is to be kept: mean of max(0, 1 - 1/T).

    Example:
        >>> truth_kept([0.5, 2.0, 4.0])
        0.4166666666666667
    """
    given = np.asarray(ratios, dtype=float)
    return float(np.maximum(0, 1 - 1 / given).mean())


def truth_forgotten(ratios: ArrayLike) -> float:
    """On what is to be forgotten: mean of min(T, 1/T), 1 where right and wrong are alike.

    Example:
        >>> truth_forgotten([0.5, 2.0, 1.0])
        0.6666666666666666
    """
    given = np.asarray(ratios, dtype=float)
    return float(np.minimum(given, 1 / given).mean())


@dataclass(frozen=True)
class ForgetQuality:
    """Whether truth ratios could be those of a model that never knew.

    Attributes:
        p: Of the two-sample Kolmogorov-Smirnov test: near 1 they cannot be told apart.
        log10_p: Its logarithm.
        statistic: The largest distance of the two cumulative distributions, from 0 to 1.
        examples: Truth ratios of either.
    """

    p: float
    log10_p: float
    statistic: float
    examples: tuple[int, int]


def forget_quality(unlearned: ArrayLike, retained: ArrayLike) -> ForgetQuality:
    """Compare truth ratios on the forget set with those of a model trained on the retain set alone.

    Args:
        unlearned: Of the model that has unlearned.
        retained: Of the model that never learned it, on the same questions.

    Raises:
        UsageError: If either has none.

    Example:
        >>> round(forget_quality([1.0, 2.0, 3.0], [1.5, 2.5, 3.5]).statistic, 4)
        0.3333
    """
    from scipy.stats import ks_2samp

    one, other = np.asarray(unlearned, dtype=float), np.asarray(retained, dtype=float)
    if not len(one) or not len(other):
        raise UsageError(
            "Forget quality compares truth ratios of two models; given: "
            f"{len(one)} and {len(other)}."
        )
    found = ks_2samp(one, other)
    p = float(found.pvalue)
    return ForgetQuality(
        p,
        math.log10(p) if p > 0 else -math.inf,
        float(found.statistic),
        (len(one), len(other)),
    )


def harmonic_mean(values: Sequence[float]) -> float:
    """Model utility of its parts, which must all be good: 0 if one of them is.

    Example:
        >>> round(harmonic_mean([0.5, 1.0]), 4), harmonic_mean([0.9, 0.0])
        (0.6667, 0.0)
    """
    if not len(values) or min(values) <= 0:
        return 0.0
    return len(values) / sum(1 / value for value in values)
