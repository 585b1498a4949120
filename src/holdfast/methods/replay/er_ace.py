"""Experience replay with asymmetric cross-entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from holdfast.data import Batch
from holdfast.errors import at_least
from holdfast.memory.buffer import Buffer, Storage
from holdfast.memory.herding import endless, keep_herded
from holdfast.method import Method, Tags

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream


class ERACE(Method):
    """ER-ACE: new examples compete among the classes of their batch, remembered ones among all.

    With B the batch of the stream, C its classes, N the classes not met so far, M a draw from the
    memory, and CE(. ; K) the cross-entropy of a softmax over the classes K alone,

        loss = mean CE(x, y; C and N) over B + mean CE(x', y'; all) over M.

    A batch of new classes then does not push down the logits of old ones, which is what moves old
    representations abruptly where a task begins. The two means are added, not averaged together.

    Args:
        capacity: Examples remembered.
        batch_size: Examples replayed a step; None: as many as the stream brings.
        storage: Which examples are remembered, as for `ER`.
        insert_epochs: In how many epochs of an experience its examples are offered to the memory.
        task_free: Act from the first batch on, without knowing where experiences begin; otherwise
            the first experience is learned plainly, and replay begins with the second.

    Differs from the paper: its equation has C alone below the stream's softmax; N is there as in
    the authors' code, and does nothing where rows of the head appear with their classes. That code
    takes N for the numbers from the largest class met on, itself included; here it is what it
    says, whatever the order of classes. The authors' cosine classifier is the head `cosine`.

    Example:
        >>> ERACE(capacity=500, task_free=True).buffer.capacity
        500
    """

    tags = Tags(
        family="replay",
        title="New insights on reducing abrupt representation change in online continual learning",
        source="Caccia et al., 2022",
        scenarios=frozenset({"class", "task"}),
        needs=frozenset({"labels"}),
        keeps=frozenset({"examples"}),
    )
    met: Tensor

    def __init__(
        self,
        capacity: int = 200,
        batch_size: int | None = None,
        storage: Storage = "reservoir",
        insert_epochs: int = 1,
        task_free: bool = False,
    ) -> None:
        super().__init__()
        at_least(1, batch_size=batch_size, insert_epochs=insert_epochs)
        self.capacity, self.batch_size, self.insert_epochs = capacity, batch_size, insert_epochs
        self.storage, self.task_free = storage, task_free
        self.buffer = Buffer(capacity, storage)

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        if not self.task_free and not stream.boundaries:
            return (
                f"ERACE begins to replay with the second experience, and {stream.name!r} does not "
                "tell where experiences end: use task_free=true."
            )
        return super().refusal(stream, model) or endless("ERACE", self.storage, stream)

    def setup(self, learner: Learner) -> None:
        assert learner.stream is not None
        met = torch.zeros(learner.stream.classes, dtype=torch.bool, device=learner.device)
        self.register_buffer("met", met)  # classes

    def logits(self, learner: Learner, batch: Batch, outputs: Tensor) -> Tensor:
        rows = learner.stream_rows
        present = torch.zeros_like(self.met).index_fill_(0, batch["y"][:rows], True)
        self.met |= present
        if not self.acts(learner):
            return outputs
        hidden = (self.met & ~present)[: outputs.shape[1]]
        ours = torch.arange(len(outputs), device=outputs.device) < rows
        return outputs.masked_fill(ours[:, None] & hidden, -torch.inf)

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        replayed = self.draw(learner) if self.acts(learner) else {}
        if replayed:
            loss = loss + learner.objective.loss(learner.forward(replayed), replayed)
        if self.storage != "herding" and learner.epoch < self.insert_epochs:
            self.buffer.add(learner.incoming, learner.generator)
        return loss

    def draw(self, learner: Learner) -> Batch:
        return self.buffer.sample(self.batch_size or learner.batch_size, learner.generator)

    def acts(self, learner: Learner) -> bool:
        """Whether the loss is asymmetric by now."""
        return self.task_free or learner.index > 0

    def end(self, learner: Learner, experience: Experience) -> None:
        keep_herded(self.buffer, learner, experience.train)
