"""Exact unlearning of the last layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from holdfast.data import Batch, Table
from holdfast.errors import at_least
from holdfast.method import Method, Tags
from holdfast.models.layers import reinitialise, stubborn
from holdfast.unlearning.last import LastLayers
from holdfast.unlearning.request import retained

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream


class EUk(Method):
    """EU-k: the last k layers are drawn anew and trained on the retain set, the others frozen.

    Layers are linear and convolutional ones; norms after the first of them are trained with them,
    and frozen norms keep their statistics.

    Args:
        k: How many layers.

    Raises:
        UsageError: If `k` is not at least 1.

    Differs from the paper: layers are drawn as PyTorch draws them at first; the code of the paper
    on worst-case forget sets draws the weights of linear ones with deviation 1.
    """

    tags = Tags(
        family="unlearning",
        title="Towards adversarial evaluations for inexact machine unlearning",
        source="Goel et al., 2022",
        scenarios=frozenset({"class", "domain"}),
        needs=frozenset({"boundaries", "retain set"}),
    )
    chooses_weights = True

    def __init__(self, k: int = 1) -> None:
        super().__init__()
        at_least(1, k=k)
        self.k = k
        self.last = LastLayers(k)

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        return super().refusal(stream, model) or self.last.refusal(model) or stubborn(model)

    def expand(self, learner: Learner, experience: Experience) -> None:
        self.last.freeze_others(learner.model)

    def begin(self, learner: Learner, experience: Experience) -> None:
        reinitialise(*self.last.layers)
        learner.optimizer.state.clear()

    def select(self, learner: Learner, table: Table) -> Table:
        return retained(learner)

    def batch(self, learner: Learner, batch: Batch) -> Batch:
        self.last.hold_norms()
        return batch

    def end(self, learner: Learner, experience: Experience) -> None:
        self.last.thaw()

    def release(self, learner: Learner) -> None:
        self.last.thaw()
