"""SimNPO: negative preference without a reference model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from holdfast.data import Batch, size
from holdfast.errors import above_zero
from holdfast.memory.requests import parted, together
from holdfast.method import Method, Tags

if TYPE_CHECKING:
    from holdfast.learner import Learner


class SimNPO(Method):
    """SimNPO: NPO with the mean loss of a token in place of the distance to a reference.

        loss = -weight (2 / beta) mean over F of log sigmoid(beta (NLL(y|x) / |y| - delta))

    with |y| the tokens of the answer. What is to be forgotten longest is what is still predicted
    best, whatever the length of the answer, and nothing is kept of the model as it was.

    Args:
        beta: How soon an example is done with.
        delta: Nats a token above which it is more than half done with.
        weight: Of this loss, against what is chained after it; the paper's is for `simnpo+retain`.

    Raises:
        UsageError: If `beta` is not above 0.
    """

    tags = Tags(
        family="unlearning",
        title="Simplicity Prevails: Rethinking Negative Preference Optimization for LLM Unlearning",
        source="Fan et al., 2024",
        scenarios=frozenset({"text"}),
    )
    replaces_loss = True

    def __init__(self, beta: float = 4.5, delta: float = 0.0, weight: float = 0.125) -> None:
        super().__init__()
        above_zero(beta=beta)
        self.beta, self.delta, self.weight = beta, delta, weight

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        forget, outputs, kept = parted(learner, batch, outputs)
        if not size(forget):
            return loss
        per_token = learner.objective.losses(outputs, forget)
        scaled = self.beta * (per_token - self.delta)
        forgetting = (2 / self.beta) * -F.logsigmoid(scaled).mean()
        return together(self.weight * forgetting, kept)
