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
        masked[: learner.stream_rows, learner.old_logits] = -torch.inf
        return masked

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        if not self.teacher.taken:
            return loss
        old = self.teacher.outputs(learner.objective.forward, batch)
        for classes in self.heads:
            kept = distillation(outputs[:, classes], old[:, classes], self.temperature).mean()
            loss = loss + self.alpha * self.temperature**2 * kept
        return loss

    def expand(self, learner: Learner, experience: Experience) -> None:
        """Note the groups of old classes that share a softmax."""
        assert learner.stream is not None
        groups: list[tuple[int, ...]] = [learner.seen]
        if learner.stream.scenario == "task":
            groups = [e.classes for e in learner.stream.experiences[: experience.index]]
        self.heads = [list(group) for group in groups]

    def gradients(self, learner: Learner) -> None:
        if not self.warming(learner):
            return
        head = learner.model.head
        trained = {id(parameter) for parameter in head.parameters()}
        for parameter in learner.parameters:
            if id(parameter) not in trained:
                parameter.grad = None  # the optimizer passes it over
        self.old_rows = [p.detach()[learner.old_logits] for p in head.parameters()]

    def step(self, learner: Learner) -> None:
        if self.warming(learner):
            parameters = learner.model.head.parameters()
            for parameter, rows in zip(parameters, self.old_rows, strict=True):
                parameter.data[learner.old_logits] = rows
            del self.old_rows

    def warming(self, learner: Learner) -> bool:
        return bool(learner.seen and learner.new) and learner.epoch < self.warmup_epochs

    def end(self, learner: Learner, experience: Experience) -> None:
        self.teacher.take()
