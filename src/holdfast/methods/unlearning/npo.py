"""Negative preference optimization: an ascent that ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from holdfast.data import Batch, size
from holdfast.errors import above_zero
from holdfast.memory.requests import parted, together
from holdfast.method import Method, Tags
from holdfast.models.reference import Keep, ReferenceScores, answer_logprobs

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience


class NPO(Method):
    """NPO: what is to be forgotten as the answer that is not preferred.

    With pi(y|x) the probability of a whole answer and pi_ref the model as it was,

        loss = (2 / beta) mean over F of log(1 + (pi(y|x) / pi_ref(y|x))^beta)          (eq. 3)

    whose gradient is that of gradient ascent times W = 2 pi^beta / (pi^beta + pi_ref^beta), example
    by example: 1 at first, and towards 0 for an answer that has become unlikely. So every example
    switches itself off once it is forgotten. As beta goes to 0 it becomes gradient ascent.

    Args:
        beta: How soon an example is done with: the larger, the sooner.
        weight: Of this loss, against what is chained after it.
        reference: How the model as it was is kept: `scores`, one number a row, computed before
            the first step; or `model`, a frozen copy (of an adapter that is new: the model with
            the adapter switched off).

    Raises:
        UsageError: If `beta` is not above 0, or `reference` is neither.

    Differs from the paper: the probability of an answer is a product over its tokens, as there; the
    gradient of an update that takes several passes weighs these by their tokens, as all of ours do,
    where the paper's weighs examples alike.
    """

    tags = Tags(
        family="unlearning",
        title=(
            "Negative Preference Optimization: From Catastrophic Collapse to Effective Unlearning"
        ),
        source="Zhang et al., 2024",
        scenarios=frozenset({"text"}),
        needs=frozenset({"boundaries"}),
        keeps=frozenset({"outputs"}),
    )
    replaces_loss = True

    def __init__(self, beta: float = 0.1, weight: float = 1.0, reference: Keep = "scores") -> None:
        super().__init__()
        above_zero(beta=beta)
        self.beta, self.weight, self.reference = beta, weight, reference
        self.before = ReferenceScores(reference)

    def setup(self, learner: Learner) -> None:
        self.before.setup(learner)

    def begin(self, learner: Learner, experience: Experience) -> None:
        self.before.take(learner, experience.train)

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        forget, outputs, kept = parted(learner, batch, outputs)
        if not size(forget):
            return loss
        now = answer_logprobs(learner, outputs, forget)
        drift = self.before.of(learner, learner.incoming) - now  # d: how much less likely
        forgetting = (2 / self.beta) * -F.logsigmoid(self.beta * drift).mean()
        return together(self.weight * forgetting, kept)
