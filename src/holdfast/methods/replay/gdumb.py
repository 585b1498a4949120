"""GDumb: greedy sampler, dumb learner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn

from holdfast.augment import cutmix
from holdfast.data import Batch, Table, size
from holdfast.errors import StreamRefused, UsageError, at_least
from holdfast.memory.buffer import Buffer
from holdfast.memory.greedy import greedily_kept
from holdfast.method import Method, Phase, Tags
from holdfast.models.layers import reinitialise, stubborn
from holdfast.optim.schedules import warm_restarts

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream

Rates = Literal["restarts", "own"]


class GDumb(Method):
    """GDumb: keep a balanced memory, and train a fresh model on it alone.

        a row of class y is taken while y holds fewer than capacity / (classes seen) rows; in a
        full memory it takes the place of a random row of the largest class
        w ~ the initial distribution,   w <- SGD on (1 / |M|) sum of loss(x, y) over (x, y) in M

    at every experience: nothing of the stream is trained on but what the memory holds, and nothing
    of the model is kept. It knows no more than its memory tells, so a method that does worse at
    equal memory makes nothing of the rest of its data. Images are trained on with CutMix: by
    chance a box of another image of the batch is pasted into each, and both labels count by area.

    The optimizer is the learner's, with fresh state at every experience; rates here are factors on
    its own. The paper's is SGD at 0.05, momentum 0.9, weight decay 1e-6, batches of 16.

    Args:
        capacity: Examples remembered.
        epochs: Passes over the memory at every experience; None: as many as the learner makes.
            The paper's 256 are one of warming up and eight cosines.
        schedule: `restarts`: one epoch at a tenth of the rate, then cosines of 1, 2, 4, ... epochs;
            `own`: the learner's schedule.
        floor: What a cosine falls to, as a share of the rate.
        cutmix: Chance that a batch of images is mixed; inputs of other kinds are never.
        clip: Largest norm of the gradient; None: any.

    Raises:
        UsageError: If an argument is out of range.

    Differs from the paper: the model is trained at the end of every experience and not only when
    somebody asks, which gives the same model; an experience's examples arrive in random order.
    In task-incremental streams a box is pasted only between images of one task, whose labels share
    a softmax. Images are mixed before they are augmented and not after it.

    Example:
        >>> GDumb(capacity=500, epochs=10, schedule="own", cutmix=0.0).capacity
        500
    """

    tags = Tags(
        family="replay",
        title="GDumb: a simple approach that questions our progress in continual learning",
        source="Prabhu et al., 2020",
        needs=frozenset({"labels"}),
        keeps=frozenset({"examples"}),
    )

    def __init__(
        self,
        capacity: int = 200,
        epochs: int | None = 256,
        schedule: Rates = "restarts",
        floor: float = 0.01,
        cutmix: float = 0.5,
        clip: float | None = 10.0,
    ) -> None:
        super().__init__()
        at_least(1, epochs=epochs)
        if schedule not in get_args(Rates):
            raise UsageError(f"schedule must be 'restarts' or 'own'; given: {schedule!r}.")
        for name, share in (("floor", floor), ("cutmix", cutmix)):
            if not 0 <= share <= 1:
                raise UsageError(f"{name} must be from 0 to 1; given: {share}.")
        if clip is not None and not clip > 0:
            raise UsageError(f"clip must be above 0; given: {clip}.")
        self.capacity, self.epochs, self.schedule = capacity, epochs, schedule
        self.floor, self.cutmix, self.clip = floor, cutmix, clip
        self.buffer = Buffer(capacity)
        self._partners: tuple[Batch, Tensor] | None = None  # of the batch at hand, and their share

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        return super().refusal(stream, model) or stubborn(model)

    def setup(self, learner: Learner) -> None:
        if learner.pretrained:
            raise StreamRefused(
                "GDumb draws the whole model anew at every experience, and would lose what a "
                "pretrained one knows: give pretrained=False."
            )

    def begin(self, learner: Learner, experience: Experience) -> None:
        self.remember(learner, experience.train.to(learner.device))
        reinitialise(learner.model)
        learner.optimizer.state.clear()  # momentum is of the weights that were given up

    def remember(self, learner: Learner, table: Table) -> None:
        """Offer an experience's examples to the memory, in random order."""
        generator = learner.generator
        order = torch.randperm(len(table), generator=generator, device=generator.device)
        held, offered = self.buffer.table(), table.take(order)
        labels = held["y"] if held is not None else offered["y"][:0]
        rows = Table.concat([held, offered]) if held is not None else offered
        kept = greedily_kept(labels, offered["y"], self.capacity, generator, learner.seen)
        self.buffer = Buffer(self.capacity)
        self.buffer.add(rows[kept], generator)

    def phases(self, learner: Learner) -> Sequence[Phase]:
        rates = warm_restarts(self.floor, warmup=1) if self.schedule == "restarts" else None
        return (Phase(self.epochs, schedule=rates),)

    def select(self, learner: Learner, table: Table) -> Table:
        memory = self.buffer.table()
        assert memory is not None
        return memory

    def batch(self, learner: Learner, batch: Batch) -> Batch:
        if not self.cutmix or batch["x"].dim() != 4:
            return batch
        mixed, partner, share = cutmix(batch["x"], self.cutmix, groups=batch.get("task"))
        self._partners = {**batch, "y": batch["y"][partner]}, share
        return {**batch, "x": mixed}

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        if self._partners is None:
            return loss
        (partners, share), self._partners = self._partners, None
        rows = size(partners)  # what other methods have mixed in since comes after them
        own = {name: column[:rows] for name, column in batch.items()}
        losses = learner.objective.losses
        gained = losses(outputs[:rows], partners) - losses(outputs[:rows], own)
        return loss + (1 - share) * gained.sum() / size(batch)

    def gradients(self, learner: Learner) -> None:
        if self.clip is not None:
            nn.utils.clip_grad_norm_(learner.parameters, self.clip)
