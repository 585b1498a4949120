"""Orthogonal low-rank adaptation."""

from __future__ import annotations

from collections import defaultdict
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from holdfast.data import Batch
from holdfast.errors import UsageError
from holdfast.method import Method, Tags
from holdfast.models import adapters

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream


class OLoRA(Method):
    """O-LoRA: a new adapter for every experience, in directions that earlier ones have not used.

        loss(B) + orthogonality sum_layers sum_{i < t} sum |A_i A_t^T| + decay sum ||.||_2

    The rows of A_i span the inputs that experience i has changed the answer to; the new ones are
    pushed out of them. Earlier adapters are frozen and stay active, in training and in use: their
    sum is the model. They are kept as one adapter of rank t x rank (see `adapters.fold`), and saved
    with the new one as a single ordinary adapter.

    Args:
        rank: Of each experience's adapter.
        alpha: Scale of B A, times the rank.
        dropout: Chance that an input of the new A is left out in training.
        targets: Which matrices: `all-linear`, `attention`, or some of q, k, v, o, gate, up, down,
            fc1 and fc2 joined by commas.
        orthogonality: Weight of the overlap with earlier adapters.
        decay: Weight of the norms of the new A and B, one a matrix.

    Raises:
        UsageError: If a number is out of range.

    Differs from the paper: frozen adapters see their inputs without dropout. As the official code,
    it penalises absolute values of A_i A_t^T where the paper writes their squares.

    Example:
        >>> OLoRA(orthogonality=5.0).targets
        'q,v'
    """

    tags = Tags(
        family="adapter",
        title="Orthogonal Subspace Learning for Language Model Continual Learning",
        source="Wang et al., 2023",
        scenarios=frozenset({"text"}),
        needs=frozenset({"adapters", "boundaries"}),
        keeps=frozenset({"parameters"}),
    )
    reads_outputs = False

    def __init__(
        self,
        rank: int = 8,
        alpha: float = 32.0,
        dropout: float = 0.1,
        targets: str = "q,v",
        orthogonality: float = 0.5,
        decay: float = 0.0,
    ) -> None:
        super().__init__()
        adapters.check(rank, alpha, dropout)
        for name, given in (("orthogonality", orthogonality), ("decay", decay)):
            if given < 0:
                raise UsageError(f"{name} must not be negative; given: {given}.")
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self.targets, self.orthogonality, self.decay = targets, orthogonality, decay
        self.layers: list[list[Any]] = []  # with the trained adapter, by its number of inputs
        self.name = ""

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        return (
            super().refusal(stream, model)
            or adapters.refusal("O-LoRA", model)
            or adapters.fold_refusal("O-LoRA", model)
        )

    def setup(self, learner: Learner) -> None:
        learner.model = adapters.adapted(
            learner.model, self.rank, self.alpha, self.dropout, self.targets, learner.seed
        )
        self.name = adapters.trained(learner.model)

    def expand(self, learner: Learner, experience: Experience) -> None:
        if experience.index:
            adapters.fold(learner.model, learner.seed + experience.index)
        by_inputs = defaultdict(list)
        for layer in adapters.lora_layers(learner.model, self.name):
            by_inputs[layer.lora_A[self.name].weight.shape[1]].append(layer)
        self.layers = list(by_inputs.values())

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        if learner.index:
            loss = loss + self.orthogonality * self.overlap()
        if self.decay:
            norms = torch._foreach_norm(
                [
                    factor[self.name].weight
                    for layers in self.layers
                    for layer in layers
                    for factor in (layer.lora_A, layer.lora_B)
                ]
            )
            loss = loss + self.decay * torch.stack(norms).sum()
        return loss

    def overlap(self) -> Tensor:
        """Absolute inner products of the new adapter's rows with all earlier ones', summed."""
        total = []
        for layers in self.layers:
            past = torch.stack([layer.lora_A[adapters.PAST].weight for layer in layers])
            new = torch.stack([layer.lora_A[self.name].weight for layer in layers])
            total.append((past @ new.mT).abs().sum())
        return torch.stack(total).sum()

    def serving(self, learner: Learner) -> AbstractContextManager[None]:
        return adapters.whole(learner.model)
