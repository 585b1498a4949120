"""Classifier-projection regularisation: answers with entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from holdfast.bregman import At
from holdfast.data import Batch, columns
from holdfast.errors import at_least
from holdfast.method import Method, Tags
from holdfast.objective import Classification
from holdfast.unified import cpr

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience


class CPR(Method):
    """Classifier-projection regularisation: stay near the uniform distribution over classes.

        loss = loss(B) + strength mean over x in B of KL(softmax f(x), uniform)
             = loss(B) - strength mean entropy of softmax f(x) + constant

    A plug-in for any method, above all for penalties on weights: minima that answer with entropy
    are wide, and a wide minimum leaves later experiences room. The classes are those met so far, or
    those of an example's task where it is known. What others replay in the batch counts too.

    Args:
        strength: Weight of the divergence.

    Raises:
        UsageError: If the strength is negative.

    Source: Cha, Hsu, Hwang, Calmon and Moon, "CPR: classifier-projection regularization for
    continual learning" (2021).

    Example:
        >>> from holdfast.method import chain
        >>> from holdfast.methods import EWC
        >>> [type(part).__name__ for part in chain(EWC(), CPR(strength=0.5)).parts()]
        ['EWC', 'CPR']
    """

    tags = Tags(
        family="penalty",
        title="CPR: classifier-projection regularization for continual learning",
        source="Cha et al., 2021",
    )

    def __init__(self, strength: float = 0.1) -> None:
        super().__init__()
        at_least(0, strength=strength)
        self.strength = strength

    def expand(self, learner: Learner, experience: Experience) -> None:
        self.penalty = cpr(self.strength, columns((*learner.seen, *learner.new)))

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        objective = learner.objective
        if isinstance(objective, Classification) and objective.task_known:
            outputs = objective.within_task(outputs, batch["task"])
        return loss + self.penalty(At(outputs, batch))
