"""Gradient-based sample selection, greedily."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from holdfast.data import Batch, concat, size
from holdfast.errors import UsageError, at_least
from holdfast.evaluation import undisturbed
from holdfast.memory.buffer import Buffer
from holdfast.memory.storage import dissimilar_slots
from holdfast.method import Method, Tags
from holdfast.optim.gradient_similarity import Similarity, gradient_similarity

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

    While there is room it is stored, with c. Once the memory is full, it is a candidate if the
    batch that it came with points against all that was drawn (max_i cos(mean g, G_i) < 0). A slot
    is then drawn with probability C_slot / sum C, and the example takes it with probability
    C_slot / (C_slot + c). What is alike goes, what is unlike stays.

    A step trains on the batch and as many remembered examples, as `ER` does.

    Args:
        capacity: Examples remembered.
        batch_size: Examples replayed a step; None: as many as the stream brings.
        batches: n: memory batches, each as large as the incoming one, fewer while there are fewer.
        weights: By which gradients are taken: `all`, or those of the `last` layer alone, the head.
        insert_epochs: In how many epochs of an experience its examples are offered to the memory.
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

    def batch(self, learner: Learner, batch: Batch) -> Batch:
        count = self.batch_size or learner.batch_size
        replayed = self.buffer.sample(count, learner.generator)
        if learner.epoch < self.insert_epochs:
            self.keep(learner)
        return concat(batch, replayed)

    def keep(self, learner: Learner) -> None:
        """Offer the incoming examples to the memory."""
        rows = learner.incoming
        count = size(rows)
        score = torch.full((count,), FIRST, device=learner.device)
        admitted = torch.ones((), dtype=torch.bool, device=learner.device)
        drawn = self.buffer.sample(self.batches * count, learner.generator)
        if drawn:
            groups = max(1, size(drawn) // count)
            whole = {k: c[: groups * min(count, size(drawn))] for k, c in drawn.items()}
            found = self.similarity(learner, rows, whole, groups)
            score = found.rows.amax(1) + 1
            admitted = found.together.amax() < 0
        held = self.buffer.columns.get("score", score[:0])
        slots = dissimilar_slots(held, self.capacity, score, admitted, learner.generator)
        self.buffer.add({**rows, "score": score}, learner.generator, slots=slots)

    def similarity(self, learner: Learner, rows: Batch, drawn: Batch, groups: int) -> Similarity:
        model, objective = learner.model, learner.objective

        def losses(module: Callable[..., Any], batch: Batch) -> Tensor:
            return objective.losses(objective.forward(module, batch), batch)

        with undisturbed(model, device=learner.device):
            if self.weights == "last":
                features = model.features(torch.cat([rows["x"], drawn["x"]]))
                model = model.head
                rows, drawn = (
                    {**part, "x": x}
                    for part, x in zip((rows, drawn), features.split(
                        [size(rows), size(drawn)]), strict=True)
                )
            return gradient_similarity(model, losses, rows, drawn, groups)
