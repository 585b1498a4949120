"""Task-free continual learning: consolidate where the loss comes to rest, not where a task ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from holdfast.data import Batch, concat, size
from holdfast.errors import UsageError, at_least
from holdfast.losses import quadratic_penalty
from holdfast.memory.buffer import Buffer
from holdfast.memory.parameters import ParameterStore
from holdfast.memory.storage import greatest_slots
from holdfast.method import Method, Phase, Tags
from holdfast.methods.penalties.mas import sensitivity
from holdfast.optim.plateaus import Late, Plateaus

if TYPE_CHECKING:
    from holdfast.learner import Learner


class _Judged(NamedTuple):
    """Losses in the latest pass: of the stream's rows, and of the hard ones."""

    incoming: Tensor
    held: Tensor


class TaskFree(Method):
    """Task-free continual learning: hold what was learned whenever the loss has come to rest.

    With B the batch of the stream, H the hard buffer, L_1 .. L_w the losses of the latest w
    batches, each before the first step on it, and mu, sigma their mean and deviation,

        step       loss(B and H) + strength sum_i Omega_i (theta_i - theta*_i)^2, `steps` times
        H          the `capacity` examples of B and H of the largest loss
        plateau    mu < mean and sigma < deviation, if there was a peak since the last one:
                   mu* <- mu, sigma* <- sigma
                   Omega <- (n Omega + mean over x in H of |d |f(x)|^2 / d theta|) / (n + 1)
                   theta* <- theta,  n <- n + 1
        peak       mu > mu* + sigma*

    Nobody says where one experience ends and the next begins, and nothing is done there. What was
    found is noted: `event`, a plateau or a peak.

    A batch's loss is looked at when the next one comes, so that no step waits for the device: what
    a plateau asks for is done one batch late.

    Args:
        strength: lambda, the weight of the penalty; see `MAS`.
        capacity: Examples of the hard buffer, all of which are trained on in each step.
        window: w, in batches.
        mean: Below which the losses of the window must lie on a plateau.
        deviation: Below which they must vary.
        steps: Steps made on every batch.

    Raises:
        UsageError: If a number is out of range.

    Differs from the paper: one mean is taken over B and H together. Several steps on a batch are
    updates of the learner (`Phase.repeats`), so that methods chained with it act in each of them: a
    memory is offered the batch each time.

    Source: Aljundi, Kelchtermans and Tuytelaars, "Task-free continual learning" (2019).

    Example:
        >>> TaskFree(steps=1).buffer.capacity
        30
    """

    tags = Tags(
        family="penalty",
        title="Task-free continual learning",
        source="Aljundi et al., 2019",
        keeps=frozenset({"examples", "parameters"}),
    )
    remembers = ("plateaus_held",)

    def __init__(
        self,
        strength: float = 0.1,
        capacity: int = 30,
        window: int = 10,
        mean: float = 0.3,
        deviation: float = 0.1,
        steps: int = 3,
    ) -> None:
        super().__init__()
        at_least(0, strength=strength)
        at_least(1, capacity=capacity, window=window, steps=steps)
        for name, bound in (("mean", mean), ("deviation", deviation)):
            if not bound > 0:
                raise UsageError(f"{name} must be above 0; given: {bound}.")
        self.strength, self.capacity, self.window = strength, capacity, window
        self.mean, self.deviation, self.steps = mean, deviation, steps
        self.buffer = Buffer(capacity)
        self.anchor, self.importance = ParameterStore(), ParameterStore()
        self.plateaus, self.losses = Plateaus(window, mean, deviation), Late()
        self.plateaus_held = 0  # n
        self._due = False  # whether a plateau was seen
        self._from = 0  # where the hard examples stand in the batch
        self._judged: _Judged | None = None

    def phases(self, learner: Learner) -> Sequence[Phase]:
        return [Phase(repeats=self.steps)]

    def batch(self, learner: Learner, batch: Batch) -> Batch:
        self._from = size(batch)
        return concat(batch, self.buffer.columns)

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        each = learner.objective.losses(outputs.detach(), batch)
        hard = slice(self._from, self._from + self.buffer.stored)
        self._judged = _Judged(each[: learner.stream_rows], each[hard])
        if not learner.again:
            self.look(learner, self._judged.incoming.mean())
        if not self.importance:
            return loss
        anchor, importance = self.anchor.get(learner.named), self.importance.get(learner.named)
        return loss + 2 * self.strength * quadratic_penalty(learner.parameters, anchor, importance)

    def look(self, learner: Learner, loss: Tensor) -> None:
        """See whether the batch before this one ended a plateau's window, or a peak's."""
        before = self.losses.exchange(loss)
        event = None if before is None else self.plateaus.see(before)
        if event is not None:
            learner.note(event=event)
        self._due |= event == "plateau"

    def step(self, learner: Learner) -> None:
        if learner.again + 1 < self.steps:
            return
        self.keep(learner)
        if self._due:
            self.hold(learner)

    def keep(self, learner: Learner) -> None:
        """Let the hardest examples be the hard buffer."""
        assert self._judged is not None
        slots = greatest_slots(self._judged.held, self.capacity, self._judged.incoming)
        self.buffer.add(learner.incoming, learner.generator, slots=slots)
        self._judged = None

    def hold(self, learner: Learner) -> None:
        """Hold the weights as they are, by what matters for the hard buffer too."""
        held = self.buffer.table()
        assert held is not None
        new, old = sensitivity(learner, held), self.importance.get(learner.named)
        share = 1 / (self.plateaus_held + 1)
        self.importance.put(learner.named, list(torch._foreach_lerp(old, new, share)))
        self.anchor.put(learner.named)
        self.plateaus_held += 1
        self._due = False

    def release(self, learner: Learner) -> None:
        self._judged = None
