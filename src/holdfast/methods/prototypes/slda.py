"""Deep SLDA: streaming linear discriminant analysis on frozen features."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from holdfast.data import Batch, Table
from holdfast.errors import UsageError
from holdfast.memory.discriminant import Discriminant
from holdfast.method import Method, Tags

if TYPE_CHECKING:
    from holdfast.learner import Learner


class SLDA(Method):
    """Deep SLDA: running class means and one shared covariance give a linear classifier.

    For the t-th example in all (from 0), with features z of class y and c_y examples of it so far,

        Sigma <- (t Sigma + Delta) / (t + 1),   Delta = t (z - mu_y)(z - mu_y)^T / (t + 1)
        mu_y  <- (c_y mu_y + z) / (c_y + 1)

    and the class predicted is the largest of W z + b, where

        Lambda = ((1 - eps) Sigma + eps I)^-1,   w_k = Lambda mu_k,   b_k = -mu_k^T Lambda mu_k / 2

    Nothing but these is trained; the features are those of the model's backbone as it is given. A
    model with `head="discriminant"` keeps all of it in its head, and can be used without the
    method afterwards.

    Args:
        shrinkage: eps, above 0 up to 1.
        plastic: Whether the covariance goes on being updated; if not, it stays what the first
            experience gave, which needs `base`.
        base: Whether the first experience is taken in as a whole: its class means, and its
            covariance by oracle approximating shrinkage. If not, it streams like all others.

    Differs from the paper: examples are taken in by batches and not one by one, with the same
    sums (a test holds both together). As in the authors' code, the mean of a class without an
    example is zero, so that the first of a class counts with its distance from there.

    Source: Hayes and Kanan (2020).
    """

    tags = Tags(
        family="prototype",
        title="Lifelong machine learning with deep streaming linear discriminant analysis",
        source="Hayes and Kanan, 2020",
        needs=frozenset({"features", "labels"}),
        keeps=frozenset({"prototypes"}),
    )

    replaces_training = True
    fills = Discriminant

    def __init__(self, shrinkage: float = 1e-4, plastic: bool = True, base: bool = False) -> None:
        super().__init__()
        if not 0 < shrinkage <= 1:
            raise UsageError(f"shrinkage must be above 0 and at most 1; given: {shrinkage}.")
        if not plastic and not base:
            raise UsageError(
                "A covariance that does not learn (plastic=false) must be given by the first "
                "experience: say base=true too."
            )
        self.shrinkage, self.plastic, self.base = shrinkage, plastic, base

    def setup(self, learner: Learner) -> None:
        if isinstance(learner.model.head, Discriminant):  # it keeps everything itself, then
            self.classifier = learner.model.head
            self.classifier.shrinkage = self.shrinkage
            return
        assert learner.stream is not None
        one = learner.stream[0].train.take(slice(0, 1)).to(learner.device)
        width = learner.features(one).shape[1]
        self.classifier = Discriminant(width, learner.stream.classes, self.shrinkage)
        self.classifier.to(learner.device)

    def fit(self, learner: Learner, table: Table) -> bool:
        features = learner.features(table)
        if self.base and not learner.index:
            self.classifier.start(features, table["y"])
        else:
            self.classifier.add(features, table["y"], self.plastic)
        self.classifier.solve()
        return True

    def answer(self, learner: Learner, batch: Batch) -> Tensor:
        logits: Tensor = self.classifier(learner.model.features(batch["x"]))
        return logits
