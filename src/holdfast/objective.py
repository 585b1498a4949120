"""Objectives: what is asked of a model with a batch.

An objective turns a batch into outputs, outputs into one loss per example, and outputs into one
score per example. Losses are per example because methods weigh, select and store by them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from holdfast.data import UNLABELLED, Batch, size
from holdfast.errors import UsageError


class Objective(ABC):
    """Base of all objectives; see `Classification` for the one in use most."""

    vectorised: ClassVar[bool] = True
    """Whether `forward` can be mapped over single examples by `torch.func.vmap`."""

    @abstractmethod
    def forward(self, model: Callable[..., Any], batch: Batch) -> Tensor:
        """The model's outputs, first dimension the example."""

    @abstractmethod
    def losses(self, outputs: Tensor, batch: Batch) -> Float[Tensor, " examples"]:
        """One loss per example."""

    def loss(self, outputs: Tensor, batch: Batch) -> Float[Tensor, ""]:
        """The mean of `losses`, which is what a step descends; overridden where it is cheaper."""
        return self.losses(outputs, batch).mean()

    @abstractmethod
    def scores(self, outputs: Tensor, batch: Batch) -> Float[Tensor, " examples"]:
        """One score per example, larger is better (1 for a right answer, 0 for a wrong one)."""

    def mean(self, values: Tensor, batch: Batch) -> Float[Tensor, ""]:
        """The mean of one value per prediction, over the predictions that the batch asks for."""
        return values.mean()

    def weight(self, batch: Batch) -> Tensor | int:
        """How many predictions a batch asks for: its share of an update of several batches."""
        return size(batch)

    def measures(self, outputs: Tensor, batch: Batch) -> dict[str, Float[Tensor, " examples"]]:
        """Further numbers, one per example, to be recorded beside the scores."""
        return {}

    def sampled(self, outputs: Tensor, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with labels drawn from the model."""
        chances = self.probabilities(outputs, batch)
        return {**batch, "y": torch.multinomial(chances, 1, generator=generator).squeeze(1)}

    def probabilities(self, outputs: Tensor, batch: Batch) -> Float[Tensor, "examples classes"]:
        """The model's distribution over labels.

        Raises:
            UsageError: If the objective has none.
        """
        raise UsageError(
            f"{type(self).__name__} has no distribution over labels, from which a Fisher "
            "information could draw: use labels='empirical'."
        )

    def squared_norms(self, outputs: Tensor, batch: Batch) -> Float[Tensor, " examples"]:
        """Squared length of the outputs that a batch asks for, one per example; needs no labels."""
        return outputs.flatten(1).square().sum(1)

    def task_scores(self, outputs: Tensor, batch: Batch) -> Float[Tensor, " examples"]:
        """The scores when the example's task is known, from the same outputs."""
        return self.scores(outputs, batch)


class Classification(Objective):
    """Cross-entropy over class logits, scored by accuracy.

    In the task-incremental scenario the batch carries a `task` column and only the logits of that
    task's classes count, in training and at test: this is a separate head per task.

    Args:
        task_classes: The classes of every task, in order.
        classes: Number of classes in all.
        task_known: Whether the task restricts the logits in training and in `scores`. `task_scores`
            are restricted in any case.
        semi_labelled: Whether the `y` of some examples is -100: they have no label, their loss is
            0, and the mean is over the others (0 where there are none).
    """

    def __init__(
        self,
        task_classes: Sequence[Sequence[int]],
        classes: int,
        task_known: bool = False,
        semi_labelled: bool = False,
    ) -> None:
        self.task_known, self.semi_labelled = task_known, semi_labelled
        self.foreign = torch.ones(len(task_classes), classes, dtype=torch.bool)
        for task, members in enumerate(task_classes):
            self.foreign[task, list(members)] = False

    def forward(self, model: Callable[..., Any], batch: Batch) -> Tensor:
        outputs: Tensor = model(batch["x"])
        return outputs

    def losses(
        self, outputs: Float[Tensor, "examples classes"], batch: Batch
    ) -> Float[Tensor, " examples"]:
        if self.task_known:
            outputs = self.within_task(outputs, batch["task"])
        return F.cross_entropy(outputs, batch["y"], ignore_index=UNLABELLED, reduction="none")

    def loss(self, outputs: Float[Tensor, "examples classes"], batch: Batch) -> Float[Tensor, ""]:
        if self.task_known:
            outputs = self.within_task(outputs, batch["task"])
        if self.semi_labelled:
            total = F.cross_entropy(outputs, batch["y"], ignore_index=UNLABELLED, reduction="sum")
            return total / self.weight(batch)
        return F.cross_entropy(outputs, batch["y"])

    def weight(self, batch: Batch) -> Tensor | int:
        if self.semi_labelled:
            return (batch["y"] != UNLABELLED).sum().clamp(min=1)
        return size(batch)

    def scores(
        self, outputs: Float[Tensor, "examples classes"], batch: Batch
    ) -> Float[Tensor, " examples"]:
        if self.task_known:
            outputs = self.within_task(outputs, batch["task"])
        return _hits(outputs, batch)

    def task_scores(
        self, outputs: Float[Tensor, "examples classes"], batch: Batch
    ) -> Float[Tensor, " examples"]:
        outputs = self.within_task(outputs, batch["task"])
        return _hits(outputs, batch)

    def probabilities(
        self, outputs: Float[Tensor, "examples classes"], batch: Batch
    ) -> Float[Tensor, "examples classes"]:
        if self.task_known:
            outputs = self.within_task(outputs, batch["task"])
        return outputs.softmax(1)

    def squared_norms(
        self, outputs: Float[Tensor, "examples classes"], batch: Batch
    ) -> Float[Tensor, " examples"]:
        if self.task_known:
            outputs = self.within_task(outputs, batch["task"], others=0.0)
        return outputs.square().sum(1)

    def within_task(
        self,
        outputs: Float[Tensor, "examples classes"],
        task: Tensor,
        others: float = -torch.inf,
    ) -> Float[Tensor, "examples classes"]:
        """The logits, with `others` in place of those of other tasks' classes."""
        if self.foreign.device != outputs.device:
            self.foreign = self.foreign.to(outputs.device)
        return outputs.masked_fill(self.foreign[task, : outputs.shape[1]], others)


class ClassificationOfTokens(Classification):
    """The same of texts, as rows of tokens."""

    vectorised = False  # transformers' masks depend on their values


def _hits(outputs: Tensor, batch: Batch) -> Tensor:
    """1 where the largest logit is the label's, 0 elsewhere and while the head has no rows."""
    if outputs.shape[1] == 0:
        return torch.zeros(len(outputs), device=outputs.device)
    return (outputs.argmax(1) == batch["y"]).float()
