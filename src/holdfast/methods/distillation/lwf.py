"""Learning without forgetting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn

from holdfast.data import Batch, columns
from holdfast.errors import UsageError
from holdfast.losses import distillation
from holdfast.memory.requests import RETAIN, Retained, of_request, unlearns
from holdfast.method import ALL_KINDS, Method, Tags
from holdfast.models.snapshot import Snapshot

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream


Balance = Literal["none", "experiences"]


class LwF(Method):
    """Learning without forgetting: on new inputs, keep giving the old answers.

        loss = CE over the new classes + alpha T^2 KD(f_old(x)/T, f(x)/T) over the old ones

    with f_old the network before this experience. In the task-incremental scenario every old task
    is distilled by its own softmax. Classes that return count in both terms, so that where classes
    stay (domain-incremental) all do, and so do all words of a language model, at every token of the
    new text that is learned from. A pre-trained model is itself the first teacher. Chained after a
    method that unlearns, it distils the retain set.

    Args:
        alpha: Weight of the distillation.
        temperature: T.
        warmup_epochs: Epochs at the start of an experience that train the head's new rows only.
        new_classes_only: Whether the stream's examples compete among the classes of their
            experience, and those still to come if the head has them; if not, among all, as do
            exemplars of old classes that another method adds.
        balance: `none`, or `experiences`: in experience n (from 1) the loss is CE / n +
            (1 - 1/n) alpha T^2 KD, so that what was learned weighs by its share, after van de Ven
            and Tolias, "Three scenarios for continual learning" (2019).

    Raises:
        UsageError: If there is no such balance.

    Differs from the paper: `warmup_epochs` is 0 by default, as in most public code; the paper
    trains the new head to convergence first.
    """

    tags = Tags(
        family="distillation",
        title="Learning without forgetting",
        source="Li and Hoiem, 2016",
        scenarios=ALL_KINDS,
        needs=frozenset({"boundaries"}),
        keeps=frozenset({"model"}),
    )
    starts_plain = True
    takes_unlabelled = True  # the teacher answers for examples that have no label

    def __init__(
        self,
        alpha: float = 1.0,
        temperature: float = 2.0,
        warmup_epochs: int = 0,
        new_classes_only: bool = True,
        balance: Balance = "none",
    ) -> None:
        super().__init__()
        if balance not in get_args(Balance):
            raise UsageError(f"balance must be none or experiences; given: {balance!r}.")
        self.alpha, self.temperature = alpha, temperature
        self.warmup_epochs, self.new_classes_only = warmup_epochs, new_classes_only
        self.balance = balance

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        if self.warmup_epochs and not hasattr(getattr(model, "head", None), "weight"):
            return (
                "LwF's warm-up trains the new rows of a linear head, and the head of "
                f"{type(model).__name__} has no `weight`: set warmup_epochs=0."
            )
        return super().refusal(stream, model)

    def setup(self, learner: Learner) -> None:
        self.teacher = Snapshot(lambda: learner.model)
        if unlearns(learner):
            self.retained = Retained()
            for request in learner.stream or ():
                of_request(request, RETAIN)

    def logits(self, learner: Learner, batch: Batch, outputs: Tensor) -> Tensor:
        if not (self.new_classes_only and learner.absent):
            return outputs
        masked = outputs.clone()
        rows = masked[: learner.stream_rows]
        absent = torch.zeros(masked.shape[1], dtype=torch.bool, device=masked.device)
        absent[learner.absent_logits] = True
        labels = batch["y"][: len(rows)].clamp(min=0)
        kept = absent[labels]  # exemplars that another method's `select` trains on among them
        rows.masked_fill_(absent & ~kept[:, None], -torch.inf)
        return masked

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        if not self.teacher.taken:
            return loss
        if unlearns(learner):  # the stream's rows are to be forgotten: the retain set is distilled
            batch = learner.augmented(self.retained.draw(learner, max(1, learner.stream_rows)))
            outputs = learner.objective.forward(learner.model, batch)
        old = self.teacher.outputs(learner.objective.forward, batch)
        weight = self.alpha * self.temperature**2
        if self.balance == "experiences":
            new = 1 / (learner.index + 1)
            loss, weight = new * loss, (1 - new) * weight
        for classes in self.heads:
            kept = distillation(outputs[..., classes], old[..., classes], self.temperature)
            loss = loss + weight * learner.objective.mean(kept, batch)
        return loss

    def expand(self, learner: Learner, experience: Experience) -> None:
        """Note the groups of old classes that share a softmax."""
        assert learner.stream is not None
        groups: list[tuple[int, ...]] = [learner.seen]
        if learner.stream.scenario == "task":
            groups = [e.classes for e in learner.stream.experiences[: experience.index]]
        self.heads = [columns(group) for group in groups]
        if learner.stream.scenario == "text":
            self.heads = [slice(None)]

    def inherit(self, learner: Learner) -> None:
        self.teacher.take()

    def gradients(self, learner: Learner) -> None:
        if not self.warming(learner):
            return
        rows, new = self.rows(learner), list(learner.new)
        trained = {id(parameter) for parameter in rows}
        for parameter in learner.parameters:
            if id(parameter) not in trained:
                parameter.grad = None  # the optimizer passes it over
            elif parameter.grad is not None:  # what momentum keeps must be the new rows' alone
                only_new = torch.zeros_like(parameter.grad)
                only_new[new] = parameter.grad[new]
                parameter.grad = only_new
        self.before = [parameter.detach().clone() for parameter in rows]

    def step(self, learner: Learner) -> None:
        if self.warming(learner):  # weight decay and old momentum move rows without a gradient
            new = list(learner.new)
            for parameter, before in zip(self.rows(learner), self.before, strict=True):
                before[new] = parameter.detach()[new]
                parameter.data.copy_(before)
            del self.before

    def rows(self, learner: Learner) -> list[Tensor]:
        """The head's parameters that have a row for every class."""
        head = learner.model.head
        return [p for p in head.parameters() if p.dim() and len(p) == len(head.weight)]

    def warming(self, learner: Learner) -> bool:
        return bool(learner.seen and learner.new) and learner.epoch < self.warmup_epochs

    def end(self, learner: Learner, experience: Experience) -> None:
        self.teacher.take()
