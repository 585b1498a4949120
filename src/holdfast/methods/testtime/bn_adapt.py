"""Batch normalisation by the statistics of the test batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from holdfast.errors import UsageError
from holdfast.method import Method, Tags
from holdfast.methods.testtime.phase import adapting
from holdfast.models.norms import BatchStatistics, use_batch_statistics

if TYPE_CHECKING:
    from holdfast.data import Table
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream


class BNAdapt(Method):
    """Batch normalisation goes by the statistics of the test batch; no weight changes.

        mean = N / (N + n) mean_source + n / (N + n) mean_batch,   likewise the variance

    for a batch of n examples. Every batch is taken for itself: nothing is kept from one to the
    next.

    Args:
        prior: N, the examples that the source's statistics count for; 0: the batch alone counts.

    Raises:
        UsageError: If `prior` is negative.
    """

    tags = Tags(
        family="test-time",
        title="Improving robustness against common corruptions by covariate shift adaptation",
        source="Schneider et al., 2020",
        scenarios=frozenset({"domain"}),
        needs=frozenset({"norm layers"}),
    )

    def __init__(self, prior: float = 0.0) -> None:
        super().__init__()
        if not prior >= 0:
            raise UsageError(f"prior must be at least 0; given: {prior}.")
        self.prior = prior

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        kinds = (nn.modules.batchnorm._BatchNorm, BatchStatistics)
        if not any(isinstance(part, kinds) for part in model.modules()):
            return (
                f"BNAdapt changes the statistics of batch normalisation, and {type(model).__name__}"
                " has none; tent adapts other normalisation layers, cotta any model."
            )
        return super().refusal(stream, model)

    def expand(self, learner: Learner, experience: Experience) -> None:
        if adapting(learner):
            use_batch_statistics(learner.model, self.prior)

    def fit(self, learner: Learner, table: Table) -> bool:
        return adapting(learner)
