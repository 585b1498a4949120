"""CLS-ER: two memories of the weights beside the memory of examples."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from holdfast.data import Batch, concat, size
from holdfast.errors import UsageError, at_least
from holdfast.memory.buffer import Buffer
from holdfast.method import Method, Tags
from holdfast.models.snapshot import Follower

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience


class CLSER(Method):
    """CLS-ER: replay, and two slow copies of the weights that teach on what is replayed.

    With B the batch, M a draw from the memory, f the network's logits and f_P, f_S those of the
    plastic and of the stable copy:

        loss = CE(B and M) + consistency mean over M of (f(x) - z(x))^2
        z(x) = f_S(x) where softmax f_S(x) is larger than softmax f_P(x) at the label, else f_P(x)

        after update t, with chance r_P and r_S of its own:
        w_P <- a w_P + (1 - a) w,   a = min(1 - 1 / (t + 1), decay),   and likewise w_S

    r_S is smaller than r_P, so that the stable copy looks further back. It is what is used: it
    stands in for the weights wherever the model is.

    The copies' normalisation statistics are their own: they run in training mode, and count the
    replayed batches, which are of all experiences. New rows of a head that grows begin as they
    begin in the network.

    Args:
        capacity: Examples remembered, by reservoir.
        batch_size: Examples replayed a step; None: as many as the stream brings.
        consistency: Weight of the distance, averaged over logits as well as examples.
        plastic_chance: r_P, from 0 to 1.
        stable_chance: r_S, from 0 to 1.
        plastic_decay: Largest share of the plastic weights that an update leaves.
        stable_decay: Likewise of the stable ones.
        insert_epochs: In how many epochs of an experience its examples are offered to the memory;
            None: in all, as the authors do.

    Raises:
        UsageError: If an argument is out of range.

    Published for Split CIFAR-10 at 500 examples: consistency 0.15, stable chance 0.1; Split MNIST:
    consistency 2, plastic chance 1, stable chance 0.9, both decays 0.99. The defaults are those of
    the authors' code.

    Differs from the paper: the network's logits on replayed examples are those of the pass over
    both batches, in which normalisation counts both; the authors make a second pass over M alone.

    Example:
        >>> CLSER(capacity=500, consistency=0.15, stable_chance=0.1).buffer.capacity
        500
    """

    tags = Tags(
        family="replay",
        title="Learning fast, learning slow: a general continual learning method based on "
        "complementary learning system",
        source="Arani et al., 2022",
        needs=frozenset({"labels"}),
        keeps=frozenset({"examples", "model"}),
    )
    remembers = ("updates",)
    answers_by_copies = True

    def __init__(
        self,
        capacity: int = 200,
        batch_size: int | None = None,
        consistency: float = 0.1,
        plastic_chance: float = 0.9,
        stable_chance: float = 0.7,
        plastic_decay: float = 0.999,
        stable_decay: float = 0.999,
        insert_epochs: int | None = None,
    ) -> None:
        super().__init__()
        at_least(1, batch_size=batch_size, insert_epochs=insert_epochs)
        for name, given in (
            ("plastic_chance", plastic_chance),
            ("stable_chance", stable_chance),
            ("plastic_decay", plastic_decay),
            ("stable_decay", stable_decay),
        ):
            if not 0 <= given <= 1:
                raise UsageError(f"{name} must be from 0 to 1; given: {given}.")
        if consistency < 0:
            raise UsageError(f"consistency must not be negative; given: {consistency}.")
        self.capacity, self.batch_size, self.consistency = capacity, batch_size, consistency
        self.plastic_chance, self.stable_chance = plastic_chance, stable_chance
        self.plastic_decay, self.stable_decay = plastic_decay, stable_decay
        self.insert_epochs = insert_epochs
        self.buffer = Buffer(capacity)
        self.updates = 0  # of the network
        self._replayed = slice(0, 0)  # rows of the batch at hand

    def setup(self, learner: Learner) -> None:
        self.plastic = Follower(lambda: learner.model)
        self.stable = Follower(lambda: learner.model)

    def begin(self, learner: Learner, experience: Experience) -> None:
        for copy in (self.plastic, self.stable):
            if copy.taken:
                copy.grow()
            else:
                copy.take()

    def batch(self, learner: Learner, batch: Batch) -> Batch:
        replayed = self.buffer.sample(self.batch_size or learner.batch_size, learner.generator)
        if self.insert_epochs is None or learner.epoch < self.insert_epochs:
            self.buffer.add(learner.incoming, learner.generator)
        rows = size(batch)
        self._replayed = slice(rows, rows + (size(replayed) if replayed else 0))
        return concat(batch, replayed)

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        if self._replayed.start == self._replayed.stop or not self.consistency:
            return loss
        replayed = {name: column[self._replayed] for name, column in batch.items()}
        distance = (outputs[self._replayed] - self.targets(learner, replayed)).square().mean()
        return loss + self.consistency * distance

    def targets(self, learner: Learner, batch: Batch) -> Tensor:
        """For every example the logits of the copy that is surer of its label."""
        forward, label = learner.objective.forward, batch["y"][:, None]
        stable, plastic = self.stable.outputs(forward, batch), self.plastic.outputs(forward, batch)
        surer = stable.log_softmax(1).gather(1, label) > plastic.log_softmax(1).gather(1, label)
        return torch.where(surer, stable, plastic)

    def step(self, learner: Learner) -> None:
        self.updates += 1
        warm = 1 - 1 / (self.updates + 1)
        plastic, stable = self.coins(learner)
        if plastic < self.plastic_chance:
            self.plastic.follow(min(warm, self.plastic_decay))
        if stable < self.stable_chance:
            self.stable.follow(min(warm, self.stable_decay))

    def coins(self, learner: Learner) -> list[float]:
        """One draw for each copy, on the host: no step waits for the device, and any resumes."""
        draw = torch.Generator().manual_seed(1_000_003 * self.updates + learner.seed)
        coins: list[float] = torch.rand(2, generator=draw).tolist()
        return coins

    def serving(self, learner: Learner) -> AbstractContextManager[None]:
        return self.stable.standing_in() if self.stable.taken else nullcontext()
