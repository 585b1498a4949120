"""SCRUB: away from the teacher on what is to be forgotten, near to it on what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from holdfast.data import Batch, Table
from holdfast.errors import UsageError, above_zero, at_least
from holdfast.losses import softened_divergence
from holdfast.memory.parameters import ParameterStore
from holdfast.method import Method, Tags
from holdfast.models.snapshot import Snapshot
from holdfast.unlearning.request import FORGET, both

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience


class SCRUB(Method):
    """SCRUB: a student that disobeys its teacher, the original model, on the forget set alone.

        max passes (over the forget set):  loss = - T^2 KL(teacher / T, student / T)
        min passes (over the retain set):  loss = gamma CE + alpha T^2 KL(teacher / T, student / T)

    The first `max_steps` max passes alternate with min passes; then only min passes follow. An
    epoch of the learner is one pass, so it needs more than twice `max_steps` of them. With
    `smoothing` every loss gains `smoothing` times the sum of the distances |theta - theta_ema| of
    all tensors to an average of the weights, theta_ema <- (1 - beta) theta_ema + beta theta after
    every pass.

    Args:
        max_steps: Max passes.
        alternate: Whether a min pass follows each max pass; if not, all max passes come first.
        gamma: Weight of the cross-entropy.
        alpha: Weight of the divergence on the retain set.
        temperature: T.
        smoothing: Weight of the pull to the averaged weights; 0: none are kept.
        beta: Share of the present weights in the average.

    Raises:
        UsageError: If a number is out of range.

    Differs from the paper: its code never updates the average before the pass numbered `sstart`,
    which lies beyond the last; here it follows from the first pass on. The rate's decay is the
    learner's `schedule`.
    """

    tags = Tags(
        family="unlearning",
        title="Towards unbounded machine unlearning",
        source="Kurmanji et al., 2023",
        scenarios=frozenset({"class", "domain"}),
        needs=frozenset({"boundaries", "labels", "retain set"}),
        keeps=frozenset({"model"}),
    )
    replaces_loss = True
    remembers = ("averaged_at",)

    def __init__(
        self,
        max_steps: int = 2,
        alternate: bool = True,
        gamma: float = 0.99,
        alpha: float = 0.001,
        temperature: float = 4.0,
        smoothing: float = 0.0,
        beta: float = 0.1,
    ) -> None:
        super().__init__()
        at_least(0, max_steps=max_steps)
        above_zero(temperature=temperature)
        for name, value in (("gamma", gamma), ("alpha", alpha), ("smoothing", smoothing)):
            if not value >= 0:
                raise UsageError(f"{name} must be at least 0; given: {value}.")
        if not 0 <= beta <= 1:
            raise UsageError(f"beta must lie between 0 and 1; given: {beta}.")
        self.max_steps, self.alternate, self.gamma, self.alpha = max_steps, alternate, gamma, alpha
        self.temperature, self.smoothing, self.beta = temperature, smoothing, beta
        self.average = ParameterStore()
        self.averaged_at = 0  # the epoch that was begun last

    def setup(self, learner: Learner) -> None:
        self.teacher = Snapshot(lambda: learner.model)

    def begin(self, learner: Learner, experience: Experience) -> None:
        self.teacher.take()
        self.averaged_at = 0
        if self.smoothing:
            self.average.put(learner.named)

    def select(self, learner: Learner, table: Table) -> Table:
        return both(learner, table)

    def epoch_rows(self, learner: Learner, table: Table, epoch: int) -> Tensor:
        forget: Tensor = table[FORGET]
        return (forget == self.maximises(epoch)).nonzero().flatten()

    def maximises(self, epoch: int) -> bool:
        """Whether an epoch is a max pass."""
        if self.alternate:
            return epoch < 2 * self.max_steps and epoch % 2 == 0
        return epoch < self.max_steps

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        taught = self.teacher.outputs(learner.objective.forward, batch)
        if self.maximises(learner.epoch):
            rows = learner.stream_rows
            loss = -self.divergence(outputs[:rows], taught[:rows])
        else:
            loss = self.gamma * loss + self.alpha * self.divergence(outputs, taught)
        if self.smoothing:
            loss = loss + self.smoothing * self.distance(learner)
        return loss

    def divergence(self, outputs: Tensor, taught: Tensor) -> Tensor:
        """T^2 KL from the teacher's softened probabilities to the student's, mean over examples."""
        return softened_divergence(outputs, taught, self.temperature).mean()

    def distance(self, learner: Learner) -> Tensor:
        if self.averaged_at != learner.epoch:
            self.averaged_at = learner.epoch
            now = [parameter.detach() for parameter in learner.parameters]
            torch._foreach_lerp_(self.average.get(learner.named), now, self.beta)
        weights: list[Tensor] = list(learner.parameters)
        anchors: Sequence[Tensor] = self.average.get(learner.named)
        apart = torch._foreach_norm(torch._foreach_sub(weights, anchors))  # type: ignore[arg-type]
        return torch.stack(apart).sum()
