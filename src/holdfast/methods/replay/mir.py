"""Maximally interfered retrieval."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.data import Batch, Table, size
from holdfast.errors import UsageError, at_least
from holdfast.memory.buffer import Storage
from holdfast.method import ALL_KINDS, Tags
from holdfast.methods.replay.er import ER
from holdfast.optim.virtual_step import loss_increase, virtual_step

if TYPE_CHECKING:
    from holdfast.learner import Learner


class MIR(ER):
    """Maximally interfered retrieval: replay what the coming step would harm most.

    With B the batch of the stream, C candidates drawn uniformly from the memory, and theta_v the
    weights after a virtual step,

        theta_v = theta - lr * gradient of mean loss(B; theta)
        s(x) = loss(x; theta_v) - loss(x; theta),   x in C
        M = the candidates of largest s,

    one step descends the mean loss over B and M together, as in `ER`.

    The virtual step is one of plain gradient descent at the learner's present rate, of a training
    pass whose changes to running statistics are dropped. Candidates are compared in evaluation
    mode, so that an example's loss depends on no other and on no dropout.

    Args:
        capacity: Examples remembered.
        batch_size: Examples replayed a step; None: as many as the stream brings.
        candidates: Examples drawn a step, from which those are chosen.
        storage: Which examples are remembered, as for `ER`.
        insert_epochs: In how many epochs of an experience its examples are offered to the memory.

    Raises:
        UsageError: If a number is out of range, or if there are fewer candidates than examples to
            be replayed.

    Differs from the paper: the authors' code adds the mean loss over B and the mean over M, where
    this averages over both: its steps are about twice as long at equal rates. Candidates may be of
    the present experience, which that code leaves out where it is told the task. Of the paper's
    variants for generated samples there is none.

    Example:
        >>> MIR(capacity=500, candidates=50).buffer.capacity
        500
    """

    tags = Tags(
        family="replay",
        title="Online continual learning with maximally interfered retrieval",
        source="Aljundi et al., 2019",
        scenarios=ALL_KINDS,
        keeps=frozenset({"examples"}),
    )

    def __init__(
        self,
        capacity: int = 200,
        batch_size: int | None = None,
        candidates: int = 50,
        storage: Storage = "reservoir",
        insert_epochs: int = 1,
    ) -> None:
        super().__init__(capacity, batch_size, storage, insert_epochs=insert_epochs)
        at_least(1, candidates=candidates)
        self.candidates = candidates
        self._require_choice(batch_size or 1)

    def setup(self, learner: Learner) -> None:
        self._require_choice(self.batch_size or learner.batch_size)

    def draw(self, learner: Learner, batch: Batch) -> Batch:
        candidates = self.buffer.sample(self.candidates, learner.generator)
        count = self.batch_size or learner.batch_size
        if not candidates or size(candidates) <= count:
            return candidates
        harm = loss_increase(learner, virtual_step(learner, batch), candidates)
        chosen: Batch = Table(candidates)[harm.topk(count).indices]
        return chosen

    def _require_choice(self, replayed: int) -> None:
        if self.candidates < replayed:
            raise UsageError(
                f"MIR chooses the {replayed} examples it replays from its candidates; candidates "
                f"must be at least as many; given: {self.candidates}."
            )
