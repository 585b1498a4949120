"""Saliency unlearning: random labels, and only the weights that matter move."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.data import Batch, Table
from holdfast.method import Method, Tags
from holdfast.methods.unlearning.random_labels import RandomLabels
from holdfast.methods.unlearning.saliency import Saliency

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience


class SalUn(Method):
    """SalUn: random labels on what is to be forgotten, under a saliency mask.

        theta <- theta_0 + M (theta - theta_0),   theta trained as `random_labels` does,
        M = 1 at the top share of |grad of the forget set's loss|, over all weights jointly

    The same as the chain `random_labels+saliency`.

    Args:
        share: Of the weights that may move.

    Raises:
        UsageError: If `share` is not above 0 and at most 1.
    """

    tags = Tags(
        family="unlearning",
        title=Saliency.tags.title,
        source=Saliency.tags.source,
        scenarios=RandomLabels.tags.scenarios,
        needs=RandomLabels.tags.needs,
        keeps=Saliency.tags.keeps,
    )
    chooses_weights = True

    def __init__(self, share: float = 0.5) -> None:
        super().__init__()
        self.share = share
        self.labels, self.saliency = RandomLabels(), Saliency(share)

    def begin(self, learner: Learner, experience: Experience) -> None:
        self.saliency.begin(learner, experience)

    def select(self, learner: Learner, table: Table) -> Table:
        return self.labels.select(learner, table)

    def batch(self, learner: Learner, batch: Batch) -> Batch:
        return self.labels.batch(learner, batch)

    def gradients(self, learner: Learner) -> None:
        self.saliency.gradients(learner)

    def step(self, learner: Learner) -> None:
        self.saliency.step(learner)
