"""What was measured of a probe set, and what it comes to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from holdfast.errors import UsageError

Floats = NDArray[np.float64]

_ARRAYS = ("nll", "tokens", "sizes", "scores", "normalised", "confidence")
_LISTS = ("where", "answers", "expected", "prompts")


@dataclass
class Measured:
    """What one model makes of a probe set; arrays have one entry per example.

    Attributes:
        name: Of the set.
        kind: `"text"`, `"choice"`, `"answer"` (read) or `"generated"`.
        metric: What `scores` are: `"accuracy"`, `"exact match"`, a metric's name; empty for text.
        nll: Negative log-probability of what is to be predicted, in nats; of the right answer.
        tokens: How many tokens that is.
        sizes: How many bytes of text.
        where: File and line.
        scores: From 0 to 1; empty for text.
        normalised: For choices: accuracy when log-probabilities are divided by the choices' bytes.
        answers: What was answered; of a wrong one that was read, what comes up to the first token
            that differs, and "…".
        expected: What should have been.
        prompts: The end of what was asked, for readers.
        confidence: Probability that the model gives to its answer, among the choices, or (read) to
            that much of it as is known; empty where it was generated, and for text.
    """

    name: str
    kind: str
    metric: str
    nll: Floats
    tokens: NDArray[np.int64]
    sizes: NDArray[np.int64]
    where: list[str]
    scores: Floats = field(default_factory=lambda: np.empty(0))
    normalised: Floats = field(default_factory=lambda: np.empty(0))
    answers: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    confidence: Floats = field(default_factory=lambda: np.empty(0))

    def __len__(self) -> int:
        return len(self.nll)

    def take(self, rows: slice) -> Measured:
        """Some of the examples, as a set of its own."""
        arrays = {name: getattr(self, name)[rows] for name in _ARRAYS}
        lists = {name: getattr(self, name)[rows] for name in _LISTS}
        return Measured(self.name, self.kind, self.metric, **arrays, **lists)

    @property
    def loss(self) -> float:
        """Mean negative log-probability of a token, in nats."""
        return float(self.nll.sum() / self.tokens.sum())

    @property
    def perplexity(self) -> float:
        return float(np.exp(self.loss))

    @property
    def bits_per_byte(self) -> float:
        """Loss that does not depend on the tokenizer."""
        return float(self.nll.sum() / self.sizes.sum() / np.log(2))

    @property
    def score(self) -> float | None:
        """The mean score; None for plain text."""
        return float(self.scores.mean()) if len(self.scores) else None


def joined(parts: list[Measured]) -> Measured:
    """Parts of one set as one."""
    first = parts[0]
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS
    }
    for name in _LISTS:
        joined[name] = [entry for part in parts for entry in getattr(part, name)]
    return Measured(first.name, first.kind, first.metric, **joined)


def calibration(confidence: ArrayLike, right: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error: how far confidence lies from being right, 0 for never.

    Examples are sorted by confidence and cut into bins of equal size, equal confidences together;
    the mean over bins, weighted by size, of the distance between mean confidence and share right.

    Args:
        confidence: Probabilities, one an example.
        right: 0 or 1, one an example.
        bins: At most; never more than examples.

    Source: Nixon et al., "Measuring calibration in deep learning" (2019): the adaptive variant.

    Example:
        >>> calibration([0.5, 0.5, 0.9, 0.9], [1, 0, 1, 0], bins=2)
        0.2
    """
    c, r = np.asarray(confidence, dtype=float), np.asarray(right, dtype=float)
    if c.shape != r.shape or c.ndim != 1 or not len(c):
        raise UsageError(
            f"Confidence {c.shape} and right {r.shape} must be equally long lists, not empty."
        )
    _, kinds, counts = np.unique(c, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2  # the rank of each confidence, ties sharing theirs
    member = np.floor(middle * min(bins, len(c)) / len(c)).astype(int)[kinds]
    gaps = [abs((c[member == i] - r[member == i]).sum()) for i in np.unique(member)]
    return float(np.sum(gaps) / len(c))
