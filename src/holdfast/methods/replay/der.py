"""Dark experience replay, with and without labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from holdfast.data import Batch
from holdfast.errors import at_least
from holdfast.losses import output_distance
from holdfast.memory.buffer import Buffer
from holdfast.method import Method, Tags

if TYPE_CHECKING:
    from holdfast.learner import Learner


class DER(Method):
    """Dark experience replay: on remembered inputs, stay close to the outputs of that time.

    With (x', z') a draw from the memory and f the network's logits,

        loss = loss(B) + alpha mean (f(x') - z')^2.

    Inputs are remembered as the stream brought them, before augmentation, with the logits of this
    very forward pass.

    Args:
        capacity: Examples remembered, by reservoir.
        alpha: Weight of the distance, averaged over logits as well as examples.
        batch_size: Examples a draw; None: as many as the stream brings.
        insert_epochs: In how many epochs of an experience its examples are offered to the memory;
            None: in all, as in the paper, so that logits of later, better epochs are kept.

    Differs from the paper: in a head that grows, logits of classes that did not exist when an
    example was stored do not count in its distance.
    """

    tags = Tags(
        family="replay",
        title="Dark experience for general continual learning: a strong, simple baseline",
        source="Buzzega et al., 2020",
        keeps=frozenset({"examples", "outputs"}),
    )

    def __init__(
        self,
        capacity: int = 200,
        alpha: float = 0.3,
        batch_size: int | None = None,
        insert_epochs: int | None = None,
    ) -> None:
        super().__init__()
        at_least(1, batch_size=batch_size, insert_epochs=insert_epochs)
        self.capacity, self.alpha = capacity, alpha
        self.batch_size, self.insert_epochs = batch_size, insert_epochs
        self.buffer = Buffer(capacity)

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        replayed = self.draw(learner)
        if replayed:
            distance = output_distance(learner.forward(replayed), replayed["outputs"])
            loss = loss + self.alpha * distance
        if self.insert_epochs is None or learner.epoch < self.insert_epochs:
            seen = {**learner.incoming, "outputs": outputs[: learner.stream_rows]}
            self.buffer.add(seen, learner.generator)
        return loss

    def draw(self, learner: Learner) -> Batch:
        return self.buffer.sample(self.batch_size or learner.batch_size, learner.generator)


class DERpp(DER):
    """Dark experience replay ++: DER, and the labels of a second, independent draw.

        loss = loss(B) + alpha mean (f(x') - z')^2 + beta mean loss(x'', y'').

    Args:
        capacity: Examples remembered, by reservoir.
        alpha: Weight of the distance to remembered logits.
        beta: Weight of the loss on remembered labels.
        batch_size: Examples a draw; None: as many as the stream brings.
        insert_epochs: In how many epochs of an experience its examples are offered to the memory;
            None: in all.
    """

    def __init__(
        self,
        capacity: int = 200,
        alpha: float = 0.1,
        beta: float = 0.5,
        batch_size: int | None = None,
        insert_epochs: int | None = None,
    ) -> None:
        super().__init__(capacity, alpha, batch_size, insert_epochs)
        self.beta = beta

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        labelled = self.draw(learner)
        loss = super().loss(learner, batch, outputs, loss)
        if labelled:
            losses = learner.objective.losses(learner.forward(labelled), labelled)
            loss = loss + self.beta * losses.mean()
        return loss
