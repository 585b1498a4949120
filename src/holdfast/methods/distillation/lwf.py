"""Learning without forgetting."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from holdfast.data import Batch
from holdfast.losses import distillation
from holdfast.method import Method, Tags
from holdfast.models.snapshot import Snapshot

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience


class LwF(Method):
    """Learning without forgetting: on new inputs, keep giving the old answers.

        loss = CE over the new classes + alpha T^2 KD(f_old(x)/T, f(x)/T) over the old ones

    with f_old the network before this experience. In the task-incremental scenario every old task
    is distilled by its own softmax; where classes return or stay (domain-incremental) all logits
    count in both terms.

    Args:
        alpha: Weight of the distillation.
        temperature: T.
        warmup_epochs: Epochs at the start of an experience that train the head's new rows only.
        new_classes_only: Whether the stream's examples compete among the new classes only; if not,
            among all.

    Differs from the paper: `warmup_epochs` is 0 by default, as in most public code; the paper
    trains the new head to convergence first.
    """

    tags = Tags(
        family="distillation",
        title="Learning without forgetting",
        source="Li and Hoiem, 2016",
        needs=frozenset({"boundaries"}),
        keeps=frozenset({"model"}),
    )

    def __init__(
        self,
        alpha: float = 1.0,
        temperature: float = 2.0,
        warmup_epochs: int = 0,
        new_classes_only: bool = True,
    ) -> None:
        super().__init__()
        self.alpha, self.temperature = alpha, temperature
        self.warmup_epochs, self.new_classes_only = warmup_epochs, new_classes_only

    def setup(self, learner: Learner) -> None:
        self.teacher = Snapshot(lambda: learner.model)

    def logits(self, learner: Learner, batch: Batch, outputs: Tensor) -> Tensor:
        if not (self.new_classes_only and learner.seen and learner.new):
            return outputs
        masked = outputs.clone()
        masked[: learner.stream_rows, list(learner.seen)] = -torch.inf
        return masked

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        if not self.teacher.taken:
            return loss
        old = self.teacher.outputs(learner.objective.forward, batch)
        for classes in self.old_heads(learner):
            kept = distillation(outputs[:, classes], old[:, classes], self.temperature).mean()
            loss = loss + self.alpha * self.temperature**2 * kept
        return loss

    def old_heads(self, learner: Learner) -> list[list[int]]:
        """The groups of old classes that share a softmax."""
        assert learner.stream is not None
        if learner.stream.scenario == "task":
            return [list(e.classes) for e in learner.stream.experiences[: learner.index]]
        return [list(learner.seen)]

    def gradients(self, learner: Learner) -> None:
        if not self.warming(learner):
            return
        head = learner.model.head
        trained = {id(parameter) for parameter in head.parameters()}
        for parameter in learner.parameters:
            if id(parameter) not in trained:
                parameter.grad = None  # the optimizer passes it over
        self.before = [p.detach()[list(learner.seen)].clone() for p in head.parameters()]

    def step(self, learner: Learner) -> None:
        if self.warming(learner):
            for parameter, rows in zip(learner.model.head.parameters(), self.before, strict=True):
                parameter.data[list(learner.seen)] = rows

    def warming(self, learner: Learner) -> bool:
        return bool(learner.seen and learner.new) and learner.epoch < self.warmup_epochs

    def end(self, learner: Learner, experience: Experience) -> None:
        self.teacher.take()
