"""SatImp: ascent on tokens that are neither forgotten nor certain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from holdfast.data import Batch, size
from holdfast.memory.requests import parted, together
from holdfast.method import Method, Tags
from holdfast.methods.unlearning.wga import token_losses

if TYPE_CHECKING:
    from holdfast.learner import Learner


class SatImp(Method):
    """SatImp: weights of saturation and of importance on every token's ascent.

        loss = -weight mean over the tokens of F of p^saturation (1 - p)^importance NLL

    with p the token's probability, without gradient: one that is forgotten already pulls little,
    and so does one that is certain in any case, such as the end of a word.

    Args:
        saturation: Power of p.
        importance: Power of 1 - p.
        weight: Of this loss, against what is chained after it.
    """

    tags = Tags(
        family="unlearning",
        title="Exploring Criteria of Loss Reweighting to Enhance LLM Unlearning",
        source="Yang et al., 2025",
        scenarios=frozenset({"text"}),
    )
    replaces_loss = True

    def __init__(
        self, saturation: float = 5.0, importance: float = 1.0, weight: float = 1.0
    ) -> None:
        super().__init__()
        self.saturation, self.importance, self.weight = saturation, importance, weight

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        forget, outputs, kept = parted(learner, batch, outputs)
        if not size(forget):
            return loss
        tokens = token_losses(learner, outputs, forget)
        likely = (-tokens.detach()).exp()
        share = likely**self.saturation * (1 - likely) ** self.importance
        asked = learner.objective.weight(forget)
        return together(-self.weight * (share * tokens).sum() / asked, kept)
