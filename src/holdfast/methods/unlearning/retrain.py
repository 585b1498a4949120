"""Retraining without what is to be forgotten: exact unlearning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from holdfast.data import Table
from holdfast.method import Method, Tags
from holdfast.models.layers import reinitialise, stubborn
from holdfast.unlearning.request import retained

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream


class Retrain(Method):
    """Retraining from scratch on the retain set: what all other unlearning is measured against.

    All weights are drawn anew when a request begins, as PyTorch draws them, so give the learner as
    many epochs as the model was trained for.
    """

    tags = Tags(
        family="unlearning",
        title="Machine unlearning",
        source="Bourtoule et al., 2021",
        scenarios=frozenset({"class", "domain"}),
        needs=frozenset({"boundaries", "retain set"}),
    )

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        return super().refusal(stream, model) or stubborn(model)

    def begin(self, learner: Learner, experience: Experience) -> None:
        reinitialise(learner.model)
        learner.optimizer.state.clear()  # momentum is of the weights that were given up

    def select(self, learner: Learner, table: Table) -> Table:
        return retained(learner)
