"""The plainest penalty: stay where you were."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from holdfast.data import Batch
from holdfast.losses import quadratic_penalty
from holdfast.memory.parameters import ParameterStore
from holdfast.method import ALL_KINDS, Method, Tags

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience


class L2(Method):
    """L2: pull every weight to its value after the previous experience.

        loss = loss(B) + strength / 2 sum_i (theta_i - theta*_i)^2

    Rows of a head that did not exist then are pulled to zero. The first experience of a pre-trained
    model is pulled to where the model came from (L2-SP, of Li et al., 2018).

    Args:
        strength: Weight of the penalty.
    """

    tags = Tags(
        family="penalty",
        title="Overcoming catastrophic forgetting in neural networks (its L2 baseline)",
        source="Kirkpatrick et al., 2017",
        scenarios=ALL_KINDS,
        needs=frozenset({"boundaries"}),
        keeps=frozenset({"parameters"}),
    )

    reads_outputs = False
    starts_plain = True

    def __init__(self, strength: float = 0.1) -> None:
        super().__init__()
        self.strength = strength
        self.anchor = ParameterStore()

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        if not self.anchor:
            return loss
        pull = quadratic_penalty(learner.parameters, self.anchor.get(learner.named))
        return loss + self.strength * pull

    def inherit(self, learner: Learner) -> None:
        self.anchor.put(learner.named)

    def begin(self, learner: Learner, experience: Experience) -> None:
        if self.anchor:  # weights that have been frozen until now are where they were
            self.anchor.put((n, p) for n, p in learner.named if not self.anchor.holds(n))

    def end(self, learner: Learner, experience: Experience) -> None:
        self.anchor.put(learner.named)
