"""Supervised contrastive replay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from holdfast.augment import Augmentation, flip, grey, jitter, resized_crop
from holdfast.data import Batch, Table, concat, size
from holdfast.errors import StreamRefused, above_zero, at_least
from holdfast.losses import supervised_contrastive
from holdfast.memory.buffer import Buffer
from holdfast.memory.prototypes import Prototypes
from holdfast.method import Method, Phase, Tags
from holdfast.stream import white_in

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream


class SCR(Method):
    """Supervised contrastive replay: pull a class's views together, and classify by nearest mean.

    With B the batch, M a draw from the memory, two views of every example of both, and
    z = g(h(x)) / |g(h(x))| of a view, h the features and g a projection of two layers:

        loss = mean over views i of -mean over p in P(i) of log s_i(p)
        s_i = softmax over views a other than i of z_i z_a / T
        y(x) = argmin_c |h(x)/|h(x)| - mu_c|,   mu_c the mean direction of the memory's class c

    P(i): the other views of i's class. The head is not trained and not used. The projection is a
    part of the model, trained by its optimizer, and is not used at test. Means are taken anew,
    of features in evaluation mode, when an experience ends, and within one when it is scored.

    The two views: both by the learner's augmentation, with draws of their own. If it has none, the
    example as it came and one by the method's own, as the authors do: a resized crop and, of images
    with three channels, also a flip, a change of colours and sometimes their loss.

    Args:
        capacity: Examples remembered, by reservoir.
        batch_size: Examples replayed a step.
        temperature: T.
        width: Of what the projection answers.
        review: Whether, after every experience, the memory is gone through once more at a tenth of
            the learning rate, `batch_size` examples a step.
        insert_epochs: In how many epochs of an experience its examples are offered to the memory.

    Raises:
        UsageError: If an argument is out of range.

    Differs from the paper: a class of which the memory holds nothing is never predicted (the
    authors give it a random mean). Both views go through the network in one pass, and so share
    their batch statistics.

    Example:
        >>> SCR(capacity=1000, temperature=0.1).buffer.capacity
        1000
    """

    tags = Tags(
        family="replay",
        title="Supervised contrastive replay: revisiting the nearest class mean classifier in "
        "online class-incremental continual learning",
        source="Mai et al., 2021",
        needs=frozenset({"features", "labels"}),
        keeps=frozenset({"examples", "prototypes"}),
    )
    works_inside = True
    replaces_loss = True
    shares_passes = False

    def __init__(
        self,
        capacity: int = 200,
        batch_size: int = 100,
        temperature: float = 0.07,
        width: int = 128,
        review: bool = False,
        insert_epochs: int = 1,
    ) -> None:
        super().__init__()
        at_least(1, batch_size=batch_size, width=width, insert_epochs=insert_epochs)
        above_zero(temperature=temperature)
        self.capacity, self.batch_size, self.temperature = capacity, batch_size, temperature
        self.width, self.review, self.insert_epochs = width, review, insert_epochs
        self.buffer = Buffer(capacity)
        self._seen: Tensor | None = None  # features of the pass at hand
        self._hook: RemovableHandle | None = None
        self._views = 0  # rows of one view in the batch at hand

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        if hasattr(model, "features") and not isinstance(getattr(model, "head", None), nn.Module):
            return "SCR reads features where they enter the head, and the model has no `head`."
        return super().refusal(stream, model)

    def setup(self, learner: Learner) -> None:
        assert learner.stream is not None
        shape = learner.stream[0].train["x"].shape[1:]
        if learner.augment is None and len(shape) != 3:
            raise StreamRefused(
                "SCR compares two views of an example, and can make them of images (channels, "
                f"height, width); these inputs have shape {tuple(shape)}: give the learner an "
                "augmentation of its own (augment=...)."
            )
        self._own = own_view(learner) if learner.augment is None else None
        one = learner.stream[0].train.take(slice(0, 1)).to(learner.device)
        features = learner.features(one).shape[1]
        learner.model.projection = nn.Sequential(
            nn.Linear(features, features), nn.ReLU(), nn.Linear(features, self.width)
        ).to(learner.device)
        self.means = Prototypes(features, learner.stream.classes, normalise=True)
        self.means.to(learner.device)

    def phases(self, learner: Learner) -> Sequence[Phase]:
        if not self.review:
            return (Phase(),)
        return (Phase(), Phase(epochs=1, rate=0.1, batch_size=self.batch_size))

    def select(self, learner: Learner, table: Table) -> Table:
        memory = self.buffer.table() if learner.phase else None
        return memory or table

    def batch(self, learner: Learner, batch: Batch) -> Batch:
        if not learner.phase:
            replayed = self.buffer.sample(self.batch_size, learner.generator)
            if learner.epoch < self.insert_epochs:
                self.buffer.add(learner.incoming, learner.generator)
            batch = concat(batch, replayed)
        self._views = size(batch)
        self._hook = learner.model.head.register_forward_pre_hook(self._see)
        other = batch if self._own is None else {**batch, "x": self._own(batch["x"])}
        return concat(batch, other)

    def _see(self, head: nn.Module, given: tuple[Tensor, ...]) -> None:
        """Keep the features of the first pass that comes by."""
        (self._seen,) = given
        self.release_hook()

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        features, self._seen = self._seen, None
        assert features is not None
        rows = slice(2 * self._views)  # what other methods have mixed in since comes after them
        projected = F.normalize(learner.model.projection(features[rows]))
        return supervised_contrastive(projected, batch["y"][rows], self.temperature).mean()

    def end(self, learner: Learner, experience: Experience) -> None:
        self.renew(learner)

    def release(self, learner: Learner) -> None:
        self.release_hook()

    def release_hook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook = None

    def renew(self, learner: Learner) -> None:
        """The means of the memory's classes under the present network."""
        memory = self.buffer.table()
        if memory is not None:
            self.means.clear()
            self.means.add(learner.features(memory), memory["y"])

    def serving(self, learner: Learner) -> AbstractContextManager[None]:
        if learner.batches is not None:  # within an experience
            self.renew(learner)
        return nullcontext()

    def predict(self, learner: Learner, batch: Batch, outputs: Tensor) -> Tensor:
        if not len(self.buffer):
            return outputs
        logits: Tensor = self.means(learner.model.features(batch["x"]))
        return logits


def own_view(learner: Learner) -> Callable[[Tensor], Tensor]:
    """The augmentation for learners that have none, on images of any unit."""
    assert learner.stream is not None
    first = learner.stream[0].train["x"]
    white = white_in(first, learner.stream.white)
    steps = [resized_crop()]
    if first.shape[1] == 3:
        steps += [flip(), jitter(), grey()]
    augmented = Augmentation(steps)
    return lambda x: augmented(x.float() / white) * white
