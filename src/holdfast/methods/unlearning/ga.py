"""Gradient ascent on what is to be forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from holdfast.data import Batch
from holdfast.method import Method, Tags

if TYPE_CHECKING:
    from holdfast.learner import Learner


class GA(Method):
    """Gradient ascent: the loss on the forget set is climbed instead of descended.

        loss = - mean loss on the forget set

    The loss has no upper bound, so that long ascent breaks the model: few epochs, small steps.
    """

    tags = Tags(
        family="unlearning",
        title="Unrolling SGD: Understanding factors influencing machine unlearning",
        source="Thudi et al., 2022",
        scenarios=frozenset({"class", "task", "domain", "text"}),
        needs=frozenset({"boundaries"}),
    )
    replaces_loss = True

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        rows = learner.stream_rows
        own = {name: column[:rows] for name, column in batch.items()}
        return -learner.objective.loss(outputs[:rows], own)
