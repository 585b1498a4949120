"""iCaRL: exemplars, distillation and a nearest-mean classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.data import Batch, Table
from holdfast.losses import binary_cross_entropy
from holdfast.memory.buffer import Buffer
from holdfast.memory.herding import keep_herded
from holdfast.memory.prototypes import Prototypes
from holdfast.method import Method, Tags
from holdfast.models.snapshot import Snapshot

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream


class ICaRL(Method):
    """iCaRL: train on new data and exemplars, distil old outputs, classify by nearest mean.

    With g_c = sigmoid(f_c) and q the outputs of the network before this experience, the loss of
    an example is the binary cross-entropy, summed over the classes so far, of g against

        q_c(x) for old classes c,   [c = y] for new ones and those that return.

    Exemplars are herded: prefixes of their order approximate the class mean in feature space, so
    a class gives exemplars up from the tail when others arrive. Prediction is the class whose
    exemplars' mean feature, of unit length, is nearest.
    While an experience is being trained on, its classes have no exemplars yet and the network's
    own outputs are used.

    Args:
        capacity: Exemplars in all, shared equally by the classes seen.
        mirror: Average features with those of the mirrored image, as the paper does; None: only if
            training mirrors images too (an augmentation with `flip`), without which the features
            of a mirror image mean nothing.

    Differs from the paper: the cross-entropy is averaged over examples (the paper's
    formula sums, the authors' code averages over classes too and uses a learning rate of 2).
    """

    tags = Tags(
        family="replay",
        title="iCaRL: incremental classifier and representation learning",
        source="Rebuffi et al., 2017",
        scenarios=frozenset({"class", "task"}),
        needs=frozenset({"features", "boundaries", "labels"}),
        keeps=frozenset({"examples", "model", "prototypes"}),
    )
    remembers = ("between",)
    replaces_loss = True

    def __init__(self, capacity: int = 200, mirror: bool | None = None) -> None:
        super().__init__()
        self.capacity, self.mirror = capacity, mirror
        self.buffer = Buffer(capacity, "herding")
        self.between = False  # experiences: the means are those of the present network

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        if self.mirror and len(stream.shape) != 3:
            return (
                "ICaRL mirrors images (channels, height, width), and the inputs of "
                f"{stream.name!r} have shape {stream.shape}: leave mirror out."
            )
        return super().refusal(stream, model)

    def setup(self, learner: Learner) -> None:
        assert learner.stream is not None
        self.teacher = Snapshot(lambda: learner.model)
        width = learner.features(learner.stream[0].train.take(slice(0, 1)).to(learner.device)).shape
        self.means = Prototypes(width[1], learner.stream.classes, normalise=True)
        self.means.to(learner.device)

    def begin(self, learner: Learner, experience: Experience) -> None:
        self.between = False

    def select(self, learner: Learner, table: Table) -> Table:
        exemplars = self.buffer.table()
        return Table.concat([table.to(learner.device), exemplars]) if exemplars else table

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        targets = F.one_hot(batch["y"], learner.known).to(outputs.dtype)
        if self.teacher.taken:
            old = self.teacher.outputs(learner.objective.forward, batch).sigmoid()
            targets[:, learner.absent_logits] = old[:, learner.absent_logits]
        return binary_cross_entropy(outputs[:, : learner.known], targets).mean()

    def end(self, learner: Learner, experience: Experience) -> None:
        keep_herded(self.buffer, learner, experience.train)
        self.between = True
        self.renew(learner)
        self.teacher.take()

    def renew(self, learner: Learner) -> None:
        """The means of the exemplars' classes under the present network."""
        exemplars = self.buffer.table()
        if self.between and exemplars is not None:
            self.means.clear()
            self.means.add(self.unit_features(learner, exemplars), exemplars["y"])

    def predict(self, learner: Learner, batch: Batch, outputs: Tensor) -> Tensor:
        if not self.between:
            return outputs
        logits: Tensor = self.means(self.unit_features(learner, Table({"x": batch["x"]})))
        return logits

    def unit_features(self, learner: Learner, table: Table) -> Tensor:
        """Features of unit length, averaged with the mirror image's."""
        features = F.normalize(learner.features(table))
        mirror = getattr(learner.augment, "mirrors", False) if self.mirror is None else self.mirror
        if mirror:
            mirrored = table.with_columns(x=torch.flip(table["x"], (-1,)))
            features = (features + F.normalize(learner.features(mirrored))) / 2
        return F.normalize(features)
