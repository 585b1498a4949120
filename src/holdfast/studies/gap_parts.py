"""What only the stability-gap study uses: the paper's replay, and a look at gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from holdfast.data import Batch, concat, size
from holdfast.memory.buffer import Buffer
from holdfast.method import Method
from holdfast.optim.gradients import flat

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience


class ReplayAsPublished(Method):
    """Replay of a class-balanced memory that is filled when an experience ends.

        loss = share loss(B) + (1 - share) loss(M)

    Args:
        capacity: Examples remembered.
        share: Weight of the new examples; all of it while the memory is empty.

    Source: De Lange et al., "Continual evaluation for lifelong learning" (2023), whose share on
    split MNIST is 0.3.
    """

    def __init__(self, capacity: int, share: float = 0.3) -> None:
        super().__init__()
        self.capacity, self.share = capacity, share
        self.buffer = Buffer(capacity, "class_balanced")

    def batch(self, learner: Learner, batch: Batch) -> Batch:
        return concat(batch, self.buffer.sample(learner.batch_size, learner.generator))

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        losses = learner.objective.losses(outputs, batch)
        rows = learner.stream_rows
        if rows == len(losses):
            return loss
        return self.share * losses[:rows].mean() + (1 - self.share) * losses[rows:].mean()

    def end(self, learner: Learner, experience: Experience) -> None:
        self.buffer.add(experience.train.to(learner.device).columns, learner.generator)


class Disentangled(Method):
    """Writes down, after every switch, how each step's gradient falls into two parts.

    The plasticity gradient is that of the stream's examples in the loss; the stability gradient is
    the rest: replayed examples, penalties, distillation. Comes first in a chain, and changes
    nothing.

    Args:
        share: Weight of the mean loss of the stream's examples in the whole loss.
        steps: How many steps of every experience but the first.
    """

    def __init__(self, share: float = 1.0, steps: int = 60) -> None:
        super().__init__()
        self.share, self.steps = share, steps
        self._plasticity: Tensor | None = None

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        if learner.index and learner.step < self.steps:
            part = loss
            if learner.stream_rows < size(batch):
                part = learner.objective.losses(outputs, batch)[: learner.stream_rows].mean()
            found = torch.autograd.grad(
                part, learner.parameters, retain_graph=True, allow_unused=True
            )
            self._plasticity = flat(
                [
                    torch.zeros_like(p) if g is None else g
                    for g, p in zip(found, learner.parameters, strict=True)
                ]
            )
        return loss

    def gradients(self, learner: Learner) -> None:
        if self._plasticity is None:
            return
        whole = flat(
            [torch.zeros_like(p) if p.grad is None else p.grad for p in learner.parameters]
        )
        plasticity = self.share * self._plasticity
        stability = whole - plasticity
        norms = plasticity.norm(), stability.norm()
        learner.note(
            plasticity=float(norms[0]),
            stability=float(norms[1]),
            cosine=float(torch.dot(plasticity, stability) / (norms[0] * norms[1]).clamp(min=1e-12)),
        )
        self._plasticity = None
