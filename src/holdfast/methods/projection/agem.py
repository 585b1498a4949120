"""Averaged gradient episodic memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from holdfast.errors import UsageError, at_least
from holdfast.memory.buffer import Buffer, Storage
from holdfast.method import Method, Tags
from holdfast.optim.gradients import flat, shaped, without_conflict

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience


class AGEM(Method):
    """A-GEM: never step against the average gradient on earlier experiences.

    With g the gradient of the step and r that of the loss on a draw from the memory,

        g <- g - (g.r / r.r) r   if g.r < 0.

    The memory holds earlier experiences only: an experience's examples enter when it ends.

    Args:
        capacity: Examples remembered.
        references: Examples drawn for r at every step.
        storage: Which examples are remembered: `reservoir`, or equal numbers of every class
            (`class_balanced`; the most recent ones: `ring`) or of every task (`task_balanced`), an
            experience being a task where the stream tells none.
    """

    tags = Tags(
        family="projection",
        title="Efficient lifelong learning with A-GEM",
        source="Chaudhry et al., 2019",
        needs=frozenset({"boundaries", "labels"}),
        keeps=frozenset({"examples"}),
    )

    def __init__(
        self,
        capacity: int = 200,
        references: int = 256,
        storage: Storage = "class_balanced",
    ) -> None:
        super().__init__()
        at_least(1, references=references)
        if storage == "herding":
            raise UsageError(
                "storage must be one of class_balanced, task_balanced, ring, reservoir; "
                "given: 'herding'."
            )
        self.capacity, self.references, self.storage = capacity, references, storage
        self.buffer = Buffer(capacity, storage)

    def gradients(self, learner: Learner) -> None:
        remembered = self.buffer.sample(self.references, learner.generator)
        if not remembered:
            return
        reference = flat(learner.gradient(remembered))
        present = [torch.zeros_like(p) if p.grad is None else p.grad for p in learner.parameters]
        allowed = shaped(without_conflict(flat(present), reference), present)
        for parameter, gradient in zip(learner.parameters, allowed, strict=True):
            parameter.grad = gradient

    def end(self, learner: Learner, experience: Experience) -> None:
        table = experience.train.to(learner.device)
        if self.storage == "task_balanced" and "task" not in table.columns:
            task = torch.full((len(table),), experience.index, device=learner.device)
            table = table.with_columns(task=task)
        self.buffer.add(table.columns, learner.generator)
