"""Stop before too much is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from holdfast.data import Table
from holdfast.errors import UsageError, at_least
from holdfast.evaluation import mean_loss
from holdfast.memory.parameters import ParameterStore
from holdfast.method import ALL_KINDS, Method, Tags

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream


class Guard(Method):
    """Early stopping on what must not be lost: train until a guard set's loss has risen too far.

    With L_g(t) the mean loss on guard set g after t updates of an experience, training ends when

        L_g(t) > (1 + limit) L_g(0)   for any g,

    and the weights go back to those of the last look at which no guard set was over its limit.
    Guard sets are the experience's sets named `guard`, or `guard` and a colon and a name. Looking
    changes nothing in what is learned.

    In a chain it comes first, so that what other methods take from the weights when an experience
    ends is taken from those that stay.

    Args:
        limit: How far a loss may rise, as a share of what it was when the experience began.
        every: Updates between looks; there is one more at the end.
        patience: Looks in a row that may be over the limit before training ends; all are taken back
            in the end, unless a later look is within the limit again.
        rows: The first so many examples of each guard set; None: all.

    Raises:
        UsageError: If a number is out of range.

    Differs from the paper: its loss on held-out data is measured against the least so far, of data
    like those learned from; here against the beginning, of data that are not.

    Example:
        >>> Guard(limit=0.02).every
        50
    """

    tags = Tags(
        family="bound",
        title="Early stopping - but when?",
        source="Prechelt, 1998",
        scenarios=ALL_KINDS,
        needs=frozenset({"boundaries"}),
        keeps=frozenset({"parameters"}),
    )
    remembers = ("over", "kept_at", "looked_at", "allowed", "losses")

    def __init__(
        self, limit: float = 0.05, every: int = 50, patience: int = 1, rows: int | None = None
    ) -> None:
        super().__init__()
        if not limit >= 0:
            raise UsageError(f"limit must be at least 0; given: {limit}.")
        at_least(1, every=every, patience=patience, rows=rows)
        self.limit, self.every, self.patience, self.rows = limit, every, patience, rows
        self.kept = ParameterStore()
        self.over = 0  # looks in a row
        self.kept_at = self.looked_at = 0  # updates of this experience
        self.allowed: dict[str, float] = {}
        self.losses: dict[str, float] = {}

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        # Inside a Trainer experiences come one by one; `begin` looks at each.
        if stream.experiences and not any(map(guards, stream)):
            return (
                f"Guard watches sets that must not be lost, and {stream.name!r} has none: give an "
                "experience a set named 'guard', or leave guard out."
            )
        return super().refusal(stream, model)

    def begin(self, learner: Learner, experience: Experience) -> None:
        self.over, self.kept_at, self.looked_at = 0, 0, 0
        self.losses = self.look(learner)
        self.allowed = {name: (1 + self.limit) * loss for name, loss in self.losses.items()}
        if self.allowed:
            self.keep(learner)

    def step(self, learner: Learner) -> None:
        made = learner.step + 1  # the step at hand is counted after it
        if self.allowed and made % self.every == 0:
            self.judge(learner, made)
            if self.over >= self.patience:
                learner.enough = True

    def end(self, learner: Learner, experience: Experience) -> None:
        if not self.allowed:
            return
        if self.looked_at != learner.step:
            self.judge(learner, learner.step)
        if self.over:
            self.put_back(learner)
        learner.note(
            guard_kept_update=self.kept_at,
            guard_stopped=bool(self.over),
            **{name.replace(":", "_") + "_loss": loss for name, loss in self.losses.items()},
        )

    def judge(self, learner: Learner, made: int) -> None:
        """Look, and keep the weights if no guard set is over its limit."""
        losses = self.look(learner)
        self.looked_at = made
        if all(losses[name] <= most for name, most in self.allowed.items()):
            self.over, self.kept_at, self.losses = 0, made, losses
            self.keep(learner)
        else:
            self.over += 1

    def look(self, learner: Learner) -> dict[str, float]:
        """The mean loss on every guard set, leaving the learner as it was."""
        sets = guards(learner.experience)
        seen = slice(0, self.rows)
        return {name: mean_loss(learner, table.take(seen)) for name, table in sets.items()}

    def keep(self, learner: Learner) -> None:
        self.kept.put(_state(learner))

    @torch.no_grad()
    def put_back(self, learner: Learner) -> None:
        here = _state(learner)
        for (_, tensor), kept in zip(here, self.kept.get(here), strict=True):
            tensor.copy_(kept)


def guards(experience: Experience) -> dict[str, Table]:
    """The sets of an experience that are watched, by name."""
    return {
        name: table
        for name, table in experience.sets.items()
        if name == "guard" or name.startswith("guard:")
    }


def _state(learner: Learner) -> list[tuple[str, Tensor]]:
    """What training changes: trained parameters, and statistics."""
    return [*learner.named, *learner.model.named_buffers()]
