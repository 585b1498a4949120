"""An unlearning request as methods see it: rows to forget, rows to keep, refusals for answers.

The experience's `train` is what is to be forgotten, `sets["retain"]` what is to be kept, and row i
of `sets["refusal"]` the prompt of row i with an answer that refuses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from holdfast.data import Batch, Table, shortened, size
from holdfast.errors import UsageError
from holdfast.memory.remembers import Remembers

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream

RETAIN, REFUSAL = "retain", "refusal"
Anchor = Literal["forget", "retain"]


def unlearns(learner: Learner) -> bool:
    """Whether what the stream brings is to be forgotten, not learned."""
    return any(part.tags.family == "unlearning" for part in learner.method.parts())


def parted(learner: Learner, batch: Batch, outputs: Tensor) -> tuple[Batch, Tensor, Tensor | None]:
    """The rows to be forgotten, their outputs, and the ordinary loss of what else is there.

    What other methods have mixed in (replayed rows) is to be kept, and is learned as always.
    """
    rows = learner.stream_rows
    if rows == size(batch):
        return batch, outputs, None
    mixed = {name: column[rows:] for name, column in batch.items()}
    loss = learner.objective.loss(outputs[rows:], mixed)
    return {name: column[:rows] for name, column in batch.items()}, outputs[:rows], loss


def together(forgetting: Tensor, kept: Tensor | None) -> Tensor:
    """The loss of both parts."""
    return forgetting if kept is None else forgetting + kept


def of_request(experience: Experience, role: str) -> Table:
    """The retain or the refusal set.

    Raises:
        UsageError: If there is none, or if refusals are not one for every row to be forgotten.
    """
    if role not in experience.sets:
        raise UsageError(
            f"A {role} set is asked for beside what is to be forgotten, and {experience.name!r} "
            f"has none: give one as sets[{role!r}]."
        )
    table = experience.sets[role]
    if role == REFUSAL and len(table) != len(experience.train):
        raise UsageError(unpaired(len(table), len(experience.train)))
    return table


def unpaired(refusals: int, rows: int) -> str:
    """That refusals and rows to be forgotten do not go together, as a sentence."""
    return (
        f"There must be one refusal for every row that is to be forgotten; given: {refusals} for "
        f"{rows}."
    )


def unpaired_in(stream: Stream) -> str | None:
    """The same of the first experience in which it is so; None if there is none."""
    for experience in stream.experiences:
        held = experience.sets.get(REFUSAL)
        if held is not None and len(held) != len(experience.train):
            return unpaired(len(held), len(experience.train))
    return None


def placed(batch: Batch, learner: Learner) -> Batch:
    """Rows of a set, cut to the longest and where the learner computes."""
    return {name: column.to(learner.device) for name, column in shortened(batch).items()}


class Refusals(Remembers):
    """Finds the refusal of every row that is to be forgotten, by what the row holds."""

    keys: Tensor | None
    rows: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("keys", None)
        self.register_buffer("rows", None)

    def begin(self, learner: Learner, experience: Experience) -> None:
        """Remember which row is where."""
        from holdfast.language.example_scores import fingerprints

        of_request(experience, REFUSAL)
        keys = fingerprints(experience.train.columns).to(learner.device)
        order = keys.argsort(stable=True)
        self.register_buffer("keys", keys[order])
        self.register_buffer("rows", order)

    def of(self, learner: Learner) -> Batch:
        """The refusals for the stream's rows of the present batch."""
        from holdfast.language.example_scores import fingerprints

        assert self.keys is not None
        assert self.rows is not None
        asked = fingerprints(learner.incoming)
        found = torch.searchsorted(self.keys, asked).clamp(max=len(self.keys) - 1)
        table = of_request(learner.experience, REFUSAL)
        return placed(table[self.rows[found].to(table.device)], learner)


class Retained(Remembers):
    """As many rows of the retain set as are to be forgotten.

    Args:
        anchor: `"forget"`: an epoch goes once through what is to be forgotten, and retain rows are
            drawn with replacement; `"retain"`: it goes once through the retain set, and what is to
            be forgotten is repeated.

    Raises:
        UsageError: If the anchor is neither.
    """

    remembers = ("place",)
    order: Tensor | None

    def __init__(self, anchor: Anchor = "forget") -> None:
        super().__init__()
        if anchor not in get_args(Anchor):
            raise UsageError(f"anchor must be {' or '.join(get_args(Anchor))}; given: {anchor!r}.")
        self.anchor, self.place = anchor, 0
        self.register_buffer("order", None)

    def begin(self) -> None:
        """Another retain set."""
        self.place = 0
        self.register_buffer("order", None)

    def select(self, learner: Learner, table: Table) -> Table:
        """What is to be forgotten, repeated to the length of the retain set where that anchors."""
        rows = len(of_request(learner.experience, RETAIN))
        if self.anchor == "forget" or rows == len(table):
            return table
        return table.take(torch.arange(rows, device=table.device) % len(table))

    def draw(self, learner: Learner, rows: int) -> Batch:
        """So many rows of the retain set of the experience at hand."""
        table = of_request(learner.experience, RETAIN)
        chance, device = learner.generator, learner.generator.device
        if self.anchor == "forget":
            chosen = torch.randint(len(table), (rows,), generator=chance, device=device)
        else:
            chosen = self._next(rows, len(table), chance)
        return placed(table[chosen.to(table.device)], learner)

    def _next(self, rows: int, count: int, chance: torch.Generator) -> Tensor:
        """The next rows of a permutation, and of another one when it ends."""
        order = self.order
        if order is None:
            order = torch.empty(0, dtype=torch.long, device=chance.device)
        while len(order) - self.place < rows:
            more = torch.randperm(count, generator=chance, device=chance.device)
            order, self.place = torch.cat([order[self.place :], more]), 0
        self.register_buffer("order", order)
        chosen = order[self.place : self.place + rows]
        self.place += rows
        return chosen
