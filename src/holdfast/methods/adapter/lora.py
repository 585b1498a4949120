"""One LoRA adapter for all experiences."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from torch import nn

from holdfast.method import Method, Tags
from holdfast.models import adapters

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream


class LoRA(Method):
    """LoRA: freeze the model and train a low-rank adapter beside its matrices.

        W x + alpha / rank B A x,    A (rank, inputs), B (outputs, rank), B = 0 at first

    The adapter goes on being trained in every experience, which is the plain fine-tuning of
    language models; nothing else keeps it from forgetting. A `PeftModel` keeps the adapter and the
    configuration that it brings, and the arguments here are not used.

    Args:
        rank: Of B A.
        alpha: Scale of B A, times the rank.
        dropout: Chance that an input of A is left out in training.
        targets: Which matrices: `all-linear`, `attention`, or some of q, k, v, o, gate, up, down,
            fc1 and fc2 joined by commas.
        restart: Begin every experience with a new adapter, the earlier ones frozen beside it
            (merging, but the base model stays as it was, and all is saved as one adapter).

    Raises:
        UsageError: If a number is out of range.

    Example:
        >>> LoRA(rank=4, targets="q,v").targets
        'q,v'
    """

    tags = Tags(
        family="adapter",
        title="LoRA: Low-Rank Adaptation of Large Language Models",
        source="Hu et al., 2021",
        scenarios=frozenset({"text"}),
        needs=frozenset({"adapters"}),
    )
    reads_outputs = False

    def __init__(
        self,
        rank: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        targets: str = "all-linear",
        restart: bool = False,
    ) -> None:
        super().__init__()
        adapters.check(rank, alpha, dropout)
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self.targets, self.restart = targets, restart

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        reason = super().refusal(stream, model) or adapters.refusal("LoRA", model)
        if reason is None and self.restart:
            reason = adapters.fold_refusal("LoRA with restart", model)
        return reason

    def setup(self, learner: Learner) -> None:
        learner.model = adapters.adapted(
            learner.model, self.rank, self.alpha, self.dropout, self.targets, learner.seed
        )

    def expand(self, learner: Learner, experience: Experience) -> None:
        if self.restart and experience.index:
            adapters.fold(learner.model, learner.seed + experience.index)

    def serving(self, learner: Learner) -> AbstractContextManager[None]:
        return adapters.whole(learner.model)
