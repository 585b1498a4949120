"""Membership inference: can an attacker tell forgotten examples from ones never seen?

The attacker sees the model's probabilities. It is fitted on retained examples (members) and test
examples (non-members), by one feature at a time, and then asked of the forgotten ones. Forgetting
is thorough when it takes as many of them for non-members as after retraining.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

HEADLINE = "confidence"
"""The feature whose attack stands in tables."""

LEAST = 1e-30
"""Stands for a probability of zero in logarithms, as its own factor is zero or the least of all."""


@dataclass(frozen=True)
class Seen:
    """What a model says of some examples.

    Attributes:
        probabilities: One row an example.
        labels: The right class of each.
    """

    probabilities: Float[Tensor, "examples classes"]
    labels: Int[Tensor, " examples"]

    @property
    def accuracy(self) -> float:
        """Share of examples whose likeliest class is the right one."""
        return float((self.probabilities.argmax(1) == self.labels).float().mean())

    def take(self, rows: Int[Tensor, " rows"]) -> Seen:
        return Seen(self.probabilities[rows], self.labels[rows])


def entropy(probabilities: Float[Tensor, "examples classes"]) -> Float[Tensor, " examples"]:
    """- sum_j p_j log p_j, in nats."""
    terms: Tensor = torch.special.entr(probabilities)
    return terms.sum(1)


def modified_entropy(seen: Seen) -> Float[Tensor, " examples"]:
    """- (1 - p_y) log p_y - sum over j other than y of p_j log(1 - p_j), in nats.

    It is small only where the model is sure and right.

    Source: Song and Mittal, "Systematic evaluation of privacy risks of machine learning models"
    (2021).

    Example:
        >>> sure = Seen(torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([0, 0]))
        >>> [round(value, 4) for value in modified_entropy(sure).tolist()]
        [0.6931, 0.0]
    """
    p, y = seen.probabilities.double(), seen.labels[:, None]
    own = p.gather(1, y)
    others = (p * torch.log1p(-p).clamp_min(_log_least())).scatter(1, y, 0.0)
    first = (1 - own) * own.clamp_min(LEAST).log()
    return 0.0 - (first.squeeze(1) + others.sum(1))  # a sure and right answer has 0, not -0


def features(seen: Seen) -> dict[str, Float[Tensor, "examples width"]]:
    """What attackers look at, by name."""
    p, y = seen.probabilities.double(), seen.labels[:, None]
    return {
        "correctness": (p.argmax(1, keepdim=True) == y).double(),
        "confidence": p.gather(1, y),
        "entropy": entropy(p)[:, None],
        "modified_entropy": modified_entropy(seen)[:, None],
        "probabilities": p,
    }


def attack(members: Seen, outsiders: Seen, forgotten: Seen) -> dict[str, float]:
    """The share of forgotten examples that an attacker takes for non-members, by feature.

    Args:
        members: Retained examples; as many as `outsiders`, or the attacker leans to the more.
        outsiders: Examples that were never trained on.
        forgotten: Of what the attacker is asked.

    Source: Jia et al., "Model sparsity can simplify machine unlearning" (2023): support vectors
    with a radial kernel, C = 3 and gamma = 1 / width.
    """
    import numpy as np
    from sklearn.svm import SVC

    known: Mapping[str, Tensor] = features(members)
    unknown, asked = features(outsiders), features(forgotten)
    label = np.concatenate(
        [np.ones(len(members.labels), dtype=int), np.zeros(len(outsiders.labels), dtype=int)]
    )
    taken = {}
    for name, of_members in known.items():
        attacker = SVC(C=3, gamma="auto", kernel="rbf")
        attacker.fit(torch.cat([of_members, unknown[name]]).cpu().numpy(), label)
        taken[name] = float(1 - attacker.predict(asked[name].cpu().numpy()).mean())
    return taken


def _log_least() -> float:
    return float(torch.tensor(LEAST, dtype=torch.float64).log())
