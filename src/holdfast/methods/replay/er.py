"""Experience replay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.data import Batch, concat
from holdfast.memory.buffer import Buffer, Retrieval, Storage
from holdfast.method import Method, Tags

if TYPE_CHECKING:
    from holdfast.learner import Learner


class ER(Method):
    """Experience replay."""

    tags = Tags(
        family="replay",
        title="On tiny episodic memories in continual learning",
        source="Chaudhry et al., 2019",
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
        self.capacity, self.batch_size, self.insert_epochs = capacity, batch_size, insert_epochs
        self.storage, self.retrieval = storage, retrieval
        self.buffer = Buffer(capacity, storage, retrieval)

    def batch(self, learner: Learner, batch: Batch) -> Batch:
        replayed = self.buffer.sample(self.batch_size or learner.batch_size, learner.generator)
        if learner.epoch < self.insert_epochs:
            self.buffer.add(learner.incoming, learner.generator)
        return concat(batch, replayed)
