"""Gradient episodic memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.errors import UsageError, at_least
from holdfast.memory.shares import Shares
from holdfast.method import Method, Tags
from holdfast.optim.gradients import flat, shaped, within_cone
from holdfast.optim.grouped_gradients import grouped_gradients

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream

Sharing = Literal["shrinking", "fixed"]


class GEM(Method):
    """GEM: never step against the gradient on any earlier experience.

    With g the gradient of the step, and G the gradients on what is remembered of every earlier
    experience, one a row: if some (Gg)_k < 0,

        v = argmin over v >= margin of 1/2 v'GG'v + (Gg)'v,   g <- G'v + g,

    which for margin 0 is the nearest vector to g with Gg >= 0.

    Args:
        capacity: Examples remembered, of all experiences together.
        margin: Least share of every remembered gradient in what is added, once one is opposed:
            above 0, earlier experiences are also improved.
        shares: `shrinking`: what is there is divided among the experiences met so far, so that the
            first has all at first; `fixed`: every experience has an equal part of the capacity from
            the start, for which the stream's length must be known.

    Differs from the paper: a uniform sample of an experience is kept, drawn when it ends, in place
    of its last examples. The margin bounds v from below, as in the authors' code; the paper adds it
    to the solution.

    Example:
        >>> GEM(capacity=1000, margin=0.0).shares
        'shrinking'
    """

    tags = Tags(
        family="projection",
        title="Gradient episodic memory for continual learning",
        source="Lopez-Paz and Ranzato, 2017",
        needs=frozenset({"boundaries", "labels"}),
        keeps=frozenset({"examples"}),
    )
    starts_plain = True

    def __init__(
        self, capacity: int = 200, margin: float = 0.5, shares: Sharing = "shrinking"
    ) -> None:
        super().__init__()
        at_least(1, capacity=capacity)
        if not 0 <= margin < float("inf"):
            raise UsageError(f"margin must be at least 0; given: {margin}.")
        if shares not in get_args(Sharing):
            raise UsageError(
                f"shares must be one of {', '.join(get_args(Sharing))}; given: {shares!r}."
            )
        self.capacity, self.margin, self.shares = capacity, margin, shares
        self.memory = Shares()

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        if self.capacity < len(stream):
            return (
                f"GEM keeps examples of every experience, and {stream.name!r} has {len(stream)}: "
                f"give it a capacity of at least that; given: {self.capacity}."
            )
        return super().refusal(stream, model)

    def gradients(self, learner: Learner) -> None:
        if not len(self.memory):
            return
        present = [torch.zeros_like(p) if p.grad is None else p.grad for p in learner.parameters]
        allowed = within_cone(flat(present), self.references(learner), self.margin)
        for parameter, gradient in zip(learner.parameters, shaped(allowed, present), strict=True):
            parameter.grad = gradient

    def references(self, learner: Learner) -> Float[Tensor, "experiences values"]:
        """Gradient of the mean loss on what is remembered of each earlier experience."""
        memory = self.memory
        return grouped_gradients(learner, memory.held, memory.weights, memory.counts)

    def end(self, learner: Learner, experience: Experience) -> None:
        assert learner.stream is not None
        among = len(learner.stream) if self.shares == "fixed" else len(self.memory) + 1
        columns = experience.train.to(learner.device).columns
        self.memory.add(columns, self.capacity // among, learner.generator)
