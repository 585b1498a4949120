"""Nearest class mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from holdfast.data import Batch, Table
from holdfast.memory.prototypes import Prototypes
from holdfast.method import Method, Tags

if TYPE_CHECKING:
    from holdfast.learner import Learner


class NCM(Method):
    """Nearest class mean: nothing is trained; the class whose mean feature is nearest is predicted.

        y(x) = argmin_c |h(x) - mu_c|,   mu_c the mean of h over all examples of c so far

    The features h are those of the model's backbone as it is given, pre-trained or not. Nothing
    is forgotten, because sums only grow. A model with `head="prototype"` keeps the means in its
    head, and can be used without the method afterwards.

    Args:
        normalise: Compare directions instead of positions.
    """

    tags = Tags(
        family="prototype",
        title="Distance-based image classification: generalizing to new classes at near-zero cost",
        source="Mensink et al., 2013",
        needs=frozenset({"features", "labels"}),
        keeps=frozenset({"prototypes"}),
    )

    replaces_training = True
    fills = Prototypes

    def __init__(self, normalise: bool = False) -> None:
        super().__init__()
        self.normalise = normalise

    def setup(self, learner: Learner) -> None:
        if isinstance(learner.model.head, Prototypes):  # the head's own means, then
            self.means = learner.model.head
            self.means.normalise = self.normalise
            return
        assert learner.stream is not None
        one = learner.stream[0].train.take(slice(0, 1)).to(learner.device)
        width = learner.features(one).shape[1]
        self.means = Prototypes(width, learner.stream.classes, self.normalise).to(learner.device)

    def fit(self, learner: Learner, table: Table) -> bool:
        self.means.add(learner.features(table), table["y"])
        return True

    def answer(self, learner: Learner, batch: Batch) -> Tensor:
        logits: Tensor = self.means(learner.model.features(batch["x"]))
        return logits
