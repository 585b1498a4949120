"""Experience replay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from holdfast.data import Batch, concat
from holdfast.errors import at_least
from holdfast.memory.buffer import Buffer, Retrieval, Storage
from holdfast.memory.herding import endless, keep_herded
from holdfast.method import ALL_KINDS, Method, Tags

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream


class ER(Method):
    """Experience replay: train on each batch together with as many remembered examples.

    With B the batch of the stream and M a draw from the memory, one step descends

        mean of loss(x, y) over (x, y) in B and M together.

    Args:
        capacity: Examples remembered.
        batch_size: Examples replayed a step; None: as many as the stream brings.
        storage: Which examples are remembered: `reservoir`, `class_balanced`, `task_balanced`,
            `ring` (the most recent of every class) or `herding` (chosen at the end of an
            experience, closest to the class means).
        retrieval: How they are drawn: `uniform` or `class_balanced`.
        insert_epochs: In how many epochs of an experience its examples are offered to the memory.
            With 1 every example counts once and the reservoir is a uniform sample of the stream;
            some public code offers them in every epoch, which favours the present experience.

    Example:
        >>> ER(capacity=500, storage="class_balanced").buffer.capacity
        500
    """

    tags = Tags(
        family="replay",
        title="On tiny episodic memories in continual learning",
        source="Chaudhry et al., 2019",
        scenarios=ALL_KINDS,
        keeps=frozenset({"examples"}),
    )

    def __init__(
        self,
        capacity: int = 200,
        batch_size: int | None = None,
        storage: Storage = "reservoir",
        retrieval: Retrieval = "uniform",
        insert_epochs: int = 1,
    ) -> None:
        super().__init__()
        at_least(1, batch_size=batch_size, insert_epochs=insert_epochs)
        self.capacity, self.batch_size, self.insert_epochs = capacity, batch_size, insert_epochs
        self.storage, self.retrieval = storage, retrieval
        self.buffer = Buffer(capacity, storage, retrieval)
        self.starts_plain = storage == "herding"

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        by_class = {self.storage, self.retrieval} & {"class_balanced", "ring", "herding"}
        if by_class and not stream.classes:
            return (
                f"{type(self).__name__} with {' and '.join(sorted(by_class))} goes by classes, and "
                f"{stream.name!r} has none: use storage='reservoir' and retrieval='uniform'."
            )
        return super().refusal(stream, model) or endless(type(self).__name__, self.storage, stream)

    def batch(self, learner: Learner, batch: Batch) -> Batch:
        replayed = self.draw(learner, batch)
        if self.storage != "herding" and learner.epoch < self.insert_epochs:
            self.buffer.add(learner.incoming, learner.generator)
        return concat(batch, replayed)

    def draw(self, learner: Learner, batch: Batch) -> Batch:
        """The remembered examples that are trained on beside a batch."""
        return self.buffer.sample(self.batch_size or learner.batch_size, learner.generator)

    def end(self, learner: Learner, experience: Experience) -> None:
        keep_herded(self.buffer, learner, experience.train)
