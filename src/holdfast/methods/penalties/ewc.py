"""Elastic weight consolidation, per experience and online."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from holdfast.data import Batch, Table
from holdfast.errors import UsageError, above_zero
from holdfast.losses import quadratic_penalty
from holdfast.memory.known import inherited
from holdfast.memory.parameters import ParameterStore
from holdfast.method import ALL_KINDS, Method, Tags
from holdfast.optim.fisher import Labels, fisher_diagonal

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience


class EWC(Method):
    """Elastic weight consolidation: hold each weight as firmly as it mattered.

        loss = loss(B) + strength / 2 sum_t sum_i F^t_i (theta_i - theta^t_i)^2

    with F^t the diagonal of the Fisher information on experience t, at its final weights theta^t.
    The sum over experiences is kept as one quadratic, with importance F = sum_t F^t and centre
    sum_t F^t theta^t / F: their difference does not depend on theta, so gradients are the same
    and memory does not grow.

    A pre-trained model is held from the start, by the Fisher information on the stream's `past` or,
    where there is none, on text sampled from the model itself; a model that can neither be shown a
    past nor sampled from is free in its first experience.

    Args:
        strength: Weight of the penalty. The step is stable while learning rate times strength times
            the largest importance stays below about 2 (4 with momentum 0.9): small networks have
            larger importances.
        labels: Of the Fisher information: `sampled` from the model, `empirical` (those of the
            data), or `all` classes, exactly.
        examples: Examples of an experience used to estimate it; None: all, or 256 where the model
            itself makes them.
        max_importance: Larger values of the Fisher information count as this; None: as they are.
            A bound keeps the step stable whatever the strength.

    Raises:
        UsageError: If `max_importance` is not above 0.
    """

    tags = Tags(
        family="penalty",
        title="Overcoming catastrophic forgetting in neural networks",
        source="Kirkpatrick et al., 2017",
        scenarios=ALL_KINDS,
        needs=frozenset({"boundaries"}),
        keeps=frozenset({"parameters"}),
    )

    reads_outputs = False
    starts_plain = True

    def __init__(
        self,
        strength: float = 10.0,
        labels: Labels = "sampled",
        examples: int | None = None,
        max_importance: float | None = None,
    ) -> None:
        super().__init__()
        self.strength, self.labels, self.examples = strength, labels, examples
        above_zero(max_importance=max_importance)
        self.max_importance = max_importance
        self.centre, self.importance = ParameterStore(), ParameterStore()

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        if not self.importance:
            return loss
        centre, importance = self.centre.get(learner.named), self.importance.get(learner.named)
        return loss + self.strength * quadratic_penalty(learner.parameters, centre, importance)

    def inherit(self, learner: Learner) -> None:
        past = inherited(learner, self.examples)
        if past is not None:
            self.hold(learner, past)

    def end(self, learner: Learner, experience: Experience) -> None:
        trained = learner.step or not self.importance  # what is not trained on was inherited
        if trained and not learner.last:
            self.hold(learner, experience.train)

    def hold(self, learner: Learner, table: Table) -> None:
        """Hold the weights as they are, as firmly as they matter for a table."""
        new = _bounded(
            fisher_diagonal(learner, table, self.labels, self.examples), self.max_importance
        )
        old, centre = self.importance.get(learner.named), self.centre.get(learner.named)
        total = torch._foreach_add(old, new)
        share = [torch.where(t > 0, n / t, 1.0) for n, t in zip(new, total, strict=True)]
        here = [p.detach() for p in learner.parameters]
        self.importance.put(learner.named, total)
        self.centre.put(learner.named, torch._foreach_lerp(centre, here, share))


class OnlineEWC(Method):
    """Online elastic weight consolidation: one running Fisher, one anchor.

        loss = loss(B) + strength / 2 sum_i F_i (theta_i - theta*_i)^2,   F <- decay F + F^t

    with theta* the weights after the latest experience; or F the mean of all F^t. A pre-trained
    model is held from the start, as by `EWC`.

    Args:
        strength: Weight of the penalty. The step is stable while learning rate times strength times
            the largest importance stays below about 2 (4 with momentum 0.9): small networks have
            larger importances.
        decay: Of earlier experiences' importance; 1 keeps it whole.
        labels: Of the Fisher information, as for `EWC`.
        examples: Examples of an experience used to estimate it; None: all, or 256 where the model
            itself makes them.
        max_importance: As for `EWC`.
        average: Whether F is the mean over the experiences so far, F <- (t F + F^t) / (t + 1);
            nothing decays then.

    Raises:
        UsageError: If `max_importance` is not above 0, or both a decay and the mean are asked for.
    """

    tags = Tags(
        family="penalty",
        title="Progress & compress: a scalable framework for continual learning",
        source="Schwarz et al., 2018",
        scenarios=ALL_KINDS,
        needs=frozenset({"boundaries"}),
        keeps=frozenset({"parameters"}),
    )

    remembers = ("held",)
    reads_outputs = False
    starts_plain = True

    def __init__(
        self,
        strength: float = 10.0,
        decay: float = 1.0,
        labels: Labels = "sampled",
        examples: int | None = None,
        max_importance: float | None = None,
        average: bool = False,
    ) -> None:
        super().__init__()
        if average and decay != 1:
            raise UsageError(f"An average does not decay: leave out decay={decay}, or average.")
        self.strength, self.decay, self.labels, self.examples = strength, decay, labels, examples
        above_zero(max_importance=max_importance)
        self.max_importance, self.average = max_importance, average
        self.held = 0  # tables
        self.anchor, self.importance = ParameterStore(), ParameterStore()

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        if not self.importance:
            return loss
        anchor, importance = self.anchor.get(learner.named), self.importance.get(learner.named)
        return loss + self.strength * quadratic_penalty(learner.parameters, anchor, importance)

    def inherit(self, learner: Learner) -> None:
        past = inherited(learner, self.examples)
        if past is not None:
            self.hold(learner, past)

    def end(self, learner: Learner, experience: Experience) -> None:
        trained = learner.step or not self.importance  # what is not trained on was inherited
        if trained and not learner.last:
            self.hold(learner, experience.train)

    def hold(self, learner: Learner, table: Table) -> None:
        """Hold the weights as they are, as firmly as they matter for a table."""
        new = _bounded(
            fisher_diagonal(learner, table, self.labels, self.examples), self.max_importance
        )
        old = self.importance.get(learner.named)
        if self.average:
            merged = torch._foreach_lerp(old, new, 1 / (self.held + 1))
        else:
            merged = torch._foreach_add(new, old, alpha=self.decay)
        self.importance.put(learner.named, merged)
        self.anchor.put(learner.named)
        self.held += 1


def _bounded(importances: list[Tensor], bound: float | None) -> list[Tensor]:
    return importances if bound is None else list(torch._foreach_clamp_max(importances, bound))
