"""Gradient-based sample selection, greedily."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.data import Batch, Table, concat, size
from holdfast.errors import UsageError, at_least
from holdfast.evaluation import in_passing
from holdfast.memory.buffer import Buffer
from holdfast.memory.storage import dissimilar_slots
from holdfast.method import Method, Tags
from holdfast.optim.gradient_similarity import gradient_similarity

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Stream

Weights = Literal["all", "last"]

FIRST = 1.1
"""The score of examples stored before there is anything to compare them with."""


class GSS(Method):
    """GSS-greedy: replay from a memory whose examples' gradients point many ways.

    With g the gradient of a new example's loss, and G_1 .. G_n those of the mean losses of n
    batches drawn from the memory, the example's score is

        c = max_i cos(g, G_i) + 1   in 0 .. 2.

    While there is room it is stored, with c as its score C. Once the memory is full, an example
    that points away from all that was drawn, c < 1, draws a slot i with probability C_i / sum_j C_j
    and takes it with probability C_i / (C_i + c): what is like others goes, what is unlike stays.

    A step trains on the batch and as many remembered examples, as `ER` does.

    Args:
        capacity: Examples remembered.
        batch_size: Examples replayed a step; None: as many as the stream brings.
        batches: n: memory batches, each as large as the incoming one, fewer while there are fewer.
        weights: By which gradients are taken: `all`, or those of the `last` layer alone, the head.
        insert_epochs: In how many epochs of an experience its examples are offered to the memory.

    Raises:
        UsageError: If a number is out of range, or if `weights` is neither of the two.

    Differs from the paper: examples are scored before the step on their batch, not after it, and
    all of a batch at once, so that no two draw the same slot. The authors' code lets a batch in by
    the cosine of its mean gradient, to save time; here every example is asked for itself, as in the
    paper. That code makes an update on the batch and another on the memory; here one is made on
    both.

    Example:
        >>> GSS(capacity=300, weights="last").buffer.capacity
        300
    """

    tags = Tags(
        family="replay",
        title="Gradient based sample selection for online continual learning",
        source="Aljundi et al., 2019",
        keeps=frozenset({"examples"}),
    )

    def __init__(
        self,
        capacity: int = 200,
        batch_size: int | None = None,
        batches: int = 10,
        weights: Weights = "all",
        insert_epochs: int = 1,
    ) -> None:
        super().__init__()
        at_least(1, batch_size=batch_size, batches=batches, insert_epochs=insert_epochs)
        if weights not in get_args(Weights):
            accepted = ", ".join(get_args(Weights))
            raise UsageError(f"weights must be one of {accepted}; given: {weights!r}.")
        self.capacity, self.batch_size, self.batches = capacity, batch_size, batches
        self.weights, self.insert_epochs = weights, insert_epochs
        self.buffer = Buffer(capacity)

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        if self.weights == "last" and not hasattr(model, "features"):
            return (
                f"GSS with weights='last' needs a model split into backbone and head, and "
                f"{type(model).__name__} is none: give a holdfast.models.Classifier(backbone, "
                "head), or weights='all'."
            )
        return super().refusal(stream, model)

    def batch(self, learner: Learner, batch: Batch) -> Batch:
        count = self.batch_size or learner.batch_size
        replayed = self.buffer.sample(count, learner.generator)
        if learner.epoch < self.insert_epochs:
            self.keep(learner)
        return concat(batch, replayed)

    def keep(self, learner: Learner) -> None:
        """Offer the incoming examples to the memory."""
        rows = learner.incoming
        drawn = self.buffer.sample(self.batches * size(rows), learner.generator)
        if drawn:
            score = self.similarity(learner, rows, drawn).amax(1) + 1
        else:
            score = torch.full((size(rows),), FIRST, device=learner.device)
        held = self.buffer.columns.get("score", score[:0])
        slots = dissimilar_slots(held, self.capacity, score, score < 1, learner.generator)
        self.buffer.add({**rows, "score": score}, learner.generator, slots=slots)

    def similarity(
        self, learner: Learner, rows: Batch, drawn: Batch
    ) -> Float[Tensor, "rows batches"]:
        """Cosines between the gradients of incoming rows and those of batches of remembered ones.

        In evaluation mode, without augmentation: an example's gradient is then its own.
        """
        batches = max(1, size(drawn) // size(rows))
        whole = batches * min(size(rows), size(drawn))
        others = drawn if whole == size(drawn) else Table(drawn)[:whole]
        model, objective = learner.model, learner.objective

        def losses(module: Callable[..., Any], batch: Batch) -> Tensor:
            return objective.losses(objective.forward(module, batch), batch)

        with in_passing(model):
            if self.weights == "last":
                features = model.features(torch.cat([rows["x"], others["x"]]))
                new, old = features.split([size(rows), size(others)])
                rows, others, model = {**rows, "x": new}, {**others, "x": old}, model.head
            return gradient_similarity(model, losses, rows, others, batches)
