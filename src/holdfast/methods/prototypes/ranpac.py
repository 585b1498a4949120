"""RanPAC: ridge regression on random projections of frozen features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from holdfast.data import Batch, Table
from holdfast.errors import UsageError, at_least, unknown
from holdfast.memory.ridge import RandomRidge
from holdfast.method import Method, Tags

if TYPE_CHECKING:
    from holdfast.learner import Learner

Precision = Literal["float64", "float32"]


class RanPAC(Method):
    """RanPAC: random projections of frozen features, decorrelated by their second-order sums.

    With features h of the model's backbone as it is given and W_rand standard normal, drawn once,

        phi = max(0, h W_rand)
        G <- G + sum phi^T phi,   Q <- Q + sum phi^T onehot(y)

    over an experience's examples, and the class predicted is the largest of

        phi (G + rho I)^-1 Q

    The ridge rho is, of 10^-8 .. 10^8, the one with the least squared error on a fifth of the
    experience at hand when solved for on the other four fifths. Sums only grow: the classifier is
    that of all data at once. A model with `head="ridge"` keeps all of it in its head, and can be
    used without the method afterwards.

    Args:
        projections: M, how many random features; 0: the backbone's features as they are.
        ridge: rho; None: chosen anew in every experience.
        precision: Of sums and solutions: `"float64"` or, for half the memory, `"float32"`. Random
            features are positive, so that the largest eigenvalue of G is near its trace, and in 32
            bits a ridge below some 10^-7 of it is lost in rounding.

    Differs from the paper: without its first-session adaptation of the backbone. Sums are of 64
    bits (32 in the authors' code), and a ridge with which the system is not positive definite in
    the precision at hand is no candidate; should all experiences together need more than the one
    chosen, the next power of ten is taken. A note in the record says which was used. The fifth is
    drawn at random.

    Source: McDonnell et al. (2023).
    """

    tags = Tags(
        family="prototype",
        title="RanPAC: Random projections and pre-trained models for continual learning",
        source="McDonnell et al., 2023",
        needs=frozenset({"features", "labels"}),
        keeps=frozenset({"prototypes"}),
    )

    replaces_training = True
    fills = RandomRidge
    size_known = False

    def __init__(
        self,
        projections: int = 10_000,
        ridge: float | None = None,
        precision: Precision = "float64",
    ) -> None:
        super().__init__()
        at_least(0, projections=projections)
        if ridge is not None and not ridge > 0:
            raise UsageError(f"ridge must be above 0; given: {ridge}.")
        if precision not in get_args(Precision):
            raise unknown("precision", precision, get_args(Precision))
        self.projections, self.ridge, self.precision = projections, ridge, precision

    def setup(self, learner: Learner) -> None:
        if isinstance(learner.model.head, RandomRidge):  # it keeps everything itself, then
            self.classifier = learner.model.head
            return
        assert learner.stream is not None
        one = learner.stream[0].train.take(slice(0, 1)).to(learner.device)
        width = learner.features(one).shape[1]
        self.classifier = RandomRidge(width, learner.stream.classes).to(learner.device)

    def fit(self, learner: Learner, table: Table) -> bool:
        classifier, features, labels = self.classifier, learner.features(table), table["y"]
        if not classifier.ready:
            dtype = getattr(torch, self.precision)
            classifier.prepare(self.projections, learner.generator, dtype)
        order = torch.randperm(len(labels), generator=learner.generator, device=labels.device)
        if self.ridge is None and len(labels) > 1:
            chosen = classifier.add_and_choose(features, labels, order[len(labels) * 4 // 5 :])
        else:  # a single example chooses nothing
            classifier.add(features, labels)
            chosen = self.ridge or 1.0
        learner.note(ridge=chosen, used=classifier.solve(chosen))
        return True

    def answer(self, learner: Learner, batch: Batch) -> Tensor:
        logits: Tensor = self.classifier(learner.model.features(batch["x"]))
        return logits
