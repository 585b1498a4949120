"""UNDIAL: distil from a teacher that has been told to lower its voice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from holdfast.data import Batch, size
from holdfast.losses import distillation
from holdfast.memory.requests import parted, together
from holdfast.method import Method, Tags
from holdfast.models.reference import Reference

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience


class UNDIAL(Method):
    """UNDIAL: learn the old model's own distribution, less the memorised token.

    At every token y of an answer that is to be forgotten, with z_ref the logits of the model as it
    was,

        loss = -sum over the vocabulary of softmax(z_ref - beta onehot(y)) log softmax(z)

    The target is fixed and sensible, so nothing runs away.

    Args:
        beta: By how much the logit of the memorised token is lowered.
        weight: Of this loss, against what is chained after it.
    """

    tags = Tags(
        family="unlearning",
        title="UNDIAL: Self-Distillation with Adjusted Logits for Robust Unlearning in LLMs",
        source="Dong et al., 2024",
        scenarios=frozenset({"text"}),
        needs=frozenset({"boundaries"}),
        keeps=frozenset({"model"}),
    )
    replaces_loss = True

    def __init__(self, beta: float = 10.0, weight: float = 1.0) -> None:
        super().__init__()
        self.beta, self.weight = beta, weight

    def setup(self, learner: Learner) -> None:
        self.teacher = Reference(lambda: learner.model)

    def begin(self, learner: Learner, experience: Experience) -> None:
        self.teacher.take()

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        from holdfast.language.objective import CausalLM

        forget, outputs, kept = parted(learner, batch, outputs)
        if not size(forget):
            return loss
        objective = learner.objective
        assert isinstance(objective, CausalLM)
        said, labels = objective.asked(outputs, forget)
        told, _ = objective.asked(self.teacher.outputs(learner, forget), forget)
        asked = labels != -100
        said, told, labels = said[asked], told[asked], labels[asked]
        lowered = told - self.beta * F.one_hot(labels, told.shape[-1])
        forgetting = distillation(said, lowered, temperature=1.0).mean()
        return together(self.weight * forgetting, kept)
