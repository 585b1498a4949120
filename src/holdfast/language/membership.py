"""Membership: whether single examples betray that a model was trained on them.

Every attack gives an example a score, larger for likelier members; its strength is the area under
the curve of members against examples of the same kind that the model has never seen: 0.5 is chance.

Source: Yeom et al. (2018) for the loss; Carlini et al., "Extracting training data from large
language models" (2021) for zlib and the reference; Shi et al., "Detecting pretraining data" (2024)
for min-k; Zhang et al., "Min-K%++" (2025).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from holdfast.errors import UsageError
from holdfast.language.tokenwise import Tokens

Floats = NDArray[np.float64]
ATTACKS = ("loss", "min-k", "min-k++", "zlib", "reference")


def attacks(
    tokens: Tokens,
    texts: Sequence[str],
    reference: ArrayLike | None = None,
    share: float = 0.2,
) -> dict[str, Floats]:
    """The scores of every attack, one an example; larger for likelier members.

    Args:
        tokens: As the attacked model reads the examples.
        texts: The examples, for how well zlib packs them.
        reference: Loss a token of each example in a model that has never seen any, in nats; None:
            no such attack.
        share: Of the least likely tokens that min-k and min-k++ look at; at least one is.

    Raises:
        UsageError: If `share` is not above 0 and up to 1.
    """
    if not 0 < share <= 1:
        raise UsageError(f"share must be above 0 and at most 1; given: {share}.")
    packed = np.array([len(zlib.compress(text.encode())) for text in texts])
    scaled = (tokens.logprob - tokens.mean) / np.maximum(tokens.deviation, 1e-6)
    found = {
        "loss": -tokens.mean_nll,
        "min-k": np.array([_least(part, share) for part in tokens.split(tokens.logprob)]),
        "min-k++": np.array([_least(part, share) for part in tokens.split(scaled)]),
        "zlib": -tokens.nll / packed,
    }
    if reference is not None:
        found["reference"] = np.asarray(reference, dtype=float) - tokens.mean_nll
    return found


def area(members: ArrayLike, others: ArrayLike) -> float:
    """The chance that a member's score is above that of another example.

    Raises:
        UsageError: If there are none of either.

    Example:
        >>> area([3.0, 1.0], [2.0, 0.0])
        0.75
    """
    from sklearn.metrics import roc_auc_score

    one, other = np.asarray(members, dtype=float), np.asarray(others, dtype=float)
    if not len(one) or not len(other):
        raise UsageError(
            "Membership needs members and other examples; given: "
            f"{len(one)} members and {len(other)} others."
        )
    truth = np.concatenate([np.ones(len(one)), np.zeros(len(other))])
    return float(roc_auc_score(truth, np.concatenate([one, other])))


def areas(members: Mapping[str, Floats], others: Mapping[str, Floats]) -> dict[str, float]:
    """The area of every attack."""
    return {name: area(members[name], others[name]) for name in members}


def _least(values: NDArray[np.float64], share: float) -> float:
    """The mean of the smallest values, a share of them."""
    count = max(1, int(share * len(values)))
    return float(np.partition(values, count - 1)[:count].mean())
