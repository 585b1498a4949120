"""Retain terms: what is to be kept, while something else is forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from torch import Tensor

from holdfast.data import Batch, Table
from holdfast.errors import UsageError
from holdfast.losses import divergence
from holdfast.memory.requests import Anchor, Retained
from holdfast.method import ALL_KINDS, Method, Tags
from holdfast.models.reference import Reference

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience

Mask = Literal["answer", "all"]


class Retain(Method):
    """Retain: go on training on what is to be kept, beside whatever forgets.

        loss = loss + weight * loss(R)

    with as many rows of the retain set, drawn anew, as the stream's batch has. After `ga` this is
    gradient difference (GradDiff), after `npo` it is NPO-RT.

    Args:
        weight: Of the term.
        anchor: `forget`: an epoch goes once through what is to be forgotten, and retain rows are
            drawn with replacement; `retain`: it goes once through the retain set, and what is to
            be forgotten is repeated.

    Raises:
        UsageError: If the anchor is neither.
    """

    tags = Tags(
        family="unlearning",
        title="Continual Learning and Private Unlearning",
        source="Liu et al., 2022",
        scenarios=ALL_KINDS,
        needs=frozenset({"retain set"}),
    )
    reads_outputs = False

    def __init__(self, weight: float = 1.0, anchor: Anchor = "forget") -> None:
        super().__init__()
        self.weight, self.anchor = weight, anchor
        self.retained = Retained(anchor)

    def begin(self, learner: Learner, experience: Experience) -> None:
        self.retained.begin()

    def select(self, learner: Learner, table: Table) -> Table:
        return self.retained.select(learner, table)

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        rows = learner.stream_rows
        if not rows:
            return loss
        retain = self.retained.draw(learner, rows)
        return loss + self.weight * learner.objective.loss(learner.forward(retain), retain)


class RetainKL(Method):
    """Retain by divergence: what is said of the retain set stays as it was.

        loss = loss + weight * KL(pi_ref || pi) on R

    over the whole vocabulary, the mean over places.

    Args:
        weight: Of the term.
        mask_positions: `answer`: the mean over the places where an answer's token is predicted;
            `all`: over every place of the batch, prompts and padding included, as NPO's code has
            it.
        anchor: As in `retain`.

    Raises:
        UsageError: If a word is none of those accepted.
    """

    tags = Tags(
        family="unlearning",
        title="TOFU: A Task of Fictitious Unlearning for LLMs (its KL baseline)",
        source="Maini et al., 2024",
        scenarios=ALL_KINDS,
        needs=frozenset({"boundaries", "retain set"}),
        keeps=frozenset({"model"}),
    )
    reads_outputs = False

    def __init__(
        self, weight: float = 1.0, mask_positions: Mask = "answer", anchor: Anchor = "forget"
    ) -> None:
        super().__init__()
        if mask_positions not in get_args(Mask):
            raise UsageError(
                f"mask_positions must be {' or '.join(get_args(Mask))}; given: {mask_positions!r}."
            )
        self.weight, self.mask_positions, self.anchor = weight, mask_positions, anchor
        self.retained = Retained(anchor)

    def setup(self, learner: Learner) -> None:
        self.reference = Reference(lambda: learner.model)

    def begin(self, learner: Learner, experience: Experience) -> None:
        self.retained.begin()
        self.reference.take()

    def select(self, learner: Learner, table: Table) -> Table:
        return self.retained.select(learner, table)

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        rows = learner.stream_rows
        if not rows:
            return loss
        retain = self.retained.draw(learner, rows)
        batch = learner.augmented(retain)
        now = learner.objective.forward(learner.model, batch)
        apart = divergence(now, self.reference.outputs(learner, batch))
        everywhere = self.mask_positions == "all"
        mean = apart.mean() if everywhere else learner.objective.mean(apart, batch)
        return loss + self.weight * mean
