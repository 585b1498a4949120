"""Gradient ascent: the plainest way to unlearn, and the way to collapse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from holdfast.data import Batch, size
from holdfast.memory.requests import parted, together
from holdfast.method import ALL_KINDS, Method, Tags

if TYPE_CHECKING:
    from holdfast.learner import Learner


class GA(Method):
    """Gradient ascent: climb the loss of what is to be forgotten.

        loss = -weight * loss(F)

    It has no end: the loss of a forgotten example can rise for ever, and with it everything else
    that the weights did. `ga+retain` is gradient difference (GradDiff), `ga+retain_kl` is KL.

    Args:
        weight: Of the ascent, against what is chained after it.
    """

    tags = Tags(
        family="unlearning",
        title="Knowledge Unlearning for Mitigating Privacy Risks in Language Models",
        source="Jang et al., 2023",
        scenarios=ALL_KINDS,
    )
    replaces_loss = True

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        forget, outputs, kept = parted(learner, batch, outputs)
        if not size(forget):
            return loss
        return together(-self.weight * learner.objective.loss(outputs, forget), kept)
