"""Extraction: how much of an answer a model gives away word for word."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def extraction_strength(right: NDArray[np.bool_]) -> float:
    """The share of an answer that comes out by itself once the rest before it is given.

        1 - k / |y|,   k the fewest tokens of y after which greedy decoding goes on as y does

    Args:
        right: Of every token of the answer in order, whether it is the likeliest given all before
            it.

    Source: Wang et al., "Rethinking LLM unlearning objectives" (2025), after Carlini et al. (2021).

    Example:
        >>> extraction_strength(np.array([True, False, True, True]))
        0.5
    """
    wrong = np.flatnonzero(~right)
    given = int(wrong[-1]) + 1 if len(wrong) else 0
    return 1 - given / len(right)


def exact_memorization(right: NDArray[np.bool_]) -> float:
    """The share of an answer's tokens that are the likeliest given all before them.

    Source: Tirumala et al., "Memorization without overfitting" (2022).

    Example:
        >>> exact_memorization(np.array([True, False, True, True]))
        0.75
    """
    return float(right.mean())
