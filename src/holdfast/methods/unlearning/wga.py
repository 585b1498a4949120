"""WGA: gradient ascent on what is still likely."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from holdfast.data import Batch, size
from holdfast.memory.requests import parted, together
from holdfast.method import Method, Tags

if TYPE_CHECKING:
    from holdfast.learner import Learner


class WGA(Method):
    """Weighted gradient ascent: a token pulls by how likely it still is.

        loss = -weight mean over the tokens of F of p^beta NLL,     p without gradient

    Args:
        beta: Power of the token's probability; 0 is gradient ascent.
        weight: Of this loss, against what is chained after it.
    """

    tags = Tags(
        family="unlearning",
        title="Rethinking LLM Unlearning Objectives: A Gradient Perspective and Go Beyond",
        source="Wang et al., 2025",
        scenarios=frozenset({"text"}),
    )
    replaces_loss = True

    def __init__(self, beta: float = 1.0, weight: float = 1.0) -> None:
        super().__init__()
        self.beta, self.weight = beta, weight

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        forget, outputs, kept = parted(learner, batch, outputs)
        if not size(forget):
            return loss
        tokens = token_losses(learner, outputs, forget)
        share = (-tokens.detach()).exp() ** self.beta
        asked = learner.objective.weight(forget)
        return together(-self.weight * (share * tokens).sum() / asked, kept)


def token_losses(learner: Learner, outputs: Tensor, batch: Batch) -> Tensor:
    """Loss of every labelled token, 0 elsewhere."""
    from holdfast.language.objective import CausalLM

    objective = learner.objective
    assert isinstance(objective, CausalLM)
    return objective.token_losses(outputs, batch)
