"""Unlearning by fine-tuning towards a sparse network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from holdfast.data import Batch, Table
from holdfast.errors import UsageError
from holdfast.method import Method, Tags
from holdfast.unlearning.request import retained

if TYPE_CHECKING:
    from holdfast.learner import Learner


class L1Sparse(Method):
    """l1-sparse unlearning: fine-tuning on the retain set with a fading l1 penalty.

        loss = CE on the retain set + alpha_t |theta|_1,   alpha_t = alpha (1 - t / T)

    with t the epoch and T the number of epochs: large weights that only the forgotten examples
    needed shrink first, and the last epochs mend what the penalty broke.

    Args:
        alpha: Weight of the penalty in the first epoch.
        free_epochs: Epochs at the end without a penalty; T is the number of the others.

    Raises:
        UsageError: If a number is negative.
    """

    tags = Tags(
        family="unlearning",
        title="Model sparsity can simplify machine unlearning",
        source="Jia et al., 2023",
        scenarios=frozenset({"class", "domain", "text"}),
        needs=frozenset({"boundaries", "retain set"}),
    )

    def __init__(self, alpha: float = 1e-3, free_epochs: int = 0) -> None:
        super().__init__()
        for name, value in (("alpha", alpha), ("free_epochs", free_epochs)):
            if not value >= 0:
                raise UsageError(f"{name} must be at least 0; given: {value}.")
        self.alpha, self.free_epochs = alpha, free_epochs

    def select(self, learner: Learner, table: Table) -> Table:
        return retained(learner)

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        weight = self.weight(learner)
        if not weight:
            return loss
        weights: list[Tensor] = list(learner.parameters)
        return loss + weight * torch.stack(torch._foreach_norm(weights, 1)).sum()

    def weight(self, learner: Learner) -> float:
        """alpha_t."""
        assert learner.batches is not None
        epochs = learner.batches.epochs - self.free_epochs
        return self.alpha * max(0.0, 1 - learner.epoch / epochs) if epochs > 0 else 0.0
