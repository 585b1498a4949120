"""Continual-learning methods as sums of Bregman divergences, and a method of any such sum.

Every function here answers with what `holdfast.bregman` lists of a method: the penalty beside the
loss of the batch. Where the library has the method itself, the two agree in loss and gradient.

Example:
    >>> at = At(torch.zeros(2, 3), {"y": torch.tensor([0, 2])})
    >>> round(float(er()(at)), 4)  # log 3
    1.0986

Source: Wang, Li, Shao and Huang, "A unified and general framework for continual learning" (2024).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast.bregman import (
    At,
    BinaryEntropy,
    BregmanPenalty,
    GaussianLogPartition,
    NegativeEntropy,
    QuadraticForm,
    SquaredLength,
    natural,
)
from holdfast.data import Batch
from holdfast.errors import UsageError, at_least
from holdfast.memory.buffer import Buffer
from holdfast.method import Method, Tags

if TYPE_CHECKING:
    from holdfast.learner import Learner

STORED = "outputs"
"""The column in which a memory holds the logits of the time when an example was stored."""


def logits(at: At) -> Tensor:
    """The space of the outputs as they are."""
    return at.outputs


def probabilities(at: At) -> Tensor:
    """The space of class probabilities."""
    return at.outputs.softmax(-1)


def weights(at: At) -> Sequence[Tensor]:
    """The space of the model's weights."""
    return at.parameters


@dataclass(frozen=True)
class LogProbabilities:
    """The space of class probabilities, told by their logarithms.

    Args:
        temperature: Divides the logits.
        classes: Columns that compete; None: all.
    """

    temperature: float = 1.0
    classes: Any = None

    def __call__(self, at: At) -> Tensor:
        return self.of(at.outputs)

    def of(self, outputs: Tensor) -> Tensor:
        """The same of other outputs."""
        chosen = outputs if self.classes is None else outputs[..., self.classes]
        return (chosen / self.temperature).log_softmax(-1)


def er(weight: float = 1.0) -> BregmanPenalty:
    """Experience replay: KL(label, now), the cross-entropy of remembered labels."""
    return BregmanPenalty(LogProbabilities(), NegativeEntropy(), _labels, weight, target_first=True)


def der(weight: float = 0.3) -> BregmanPenalty:
    """Dark experience replay: squared distance to stored logits, averaged over logits too."""
    return BregmanPenalty(
        logits, SquaredLength(), lambda at: at.batch[STORED], weight, by_coordinate=True
    )


def derpp(alpha: float = 0.1, beta: float = 0.5) -> tuple[BregmanPenalty, BregmanPenalty]:
    """Dark experience replay ++: labels of one draw, logits of another."""
    return er(beta), der(alpha)


def fdr(weight: float = 1.0) -> BregmanPenalty:
    """Function distance regularisation: squared distance to stored probabilities.

    Logits of classes that did not exist when an example was stored count as chances of zero then.
    """

    def stored(at: At) -> Tensor:
        held = at.batch[STORED]
        grown = at.outputs.shape[-1] - held.shape[-1]
        held = F.pad(held, (0, max(0, grown)), value=torch.nan)
        return held.masked_fill(held.isnan(), -torch.inf).softmax(-1)

    return BregmanPenalty(probabilities, SquaredLength(), stored, weight)


def distilled(
    teacher: Callable[[Batch], Tensor],
    weight: float = 1.0,
    temperature: float = 2.0,
    classes: Any = None,
) -> BregmanPenalty:
    """LwF: T^2 KL(teacher, now) of softened probabilities.

    Args:
        teacher: From a batch to an old model's logits.
        weight: Of the divergence.
        temperature: T.
        classes: Columns that compete, those of the old classes; None: all.
    """
    space = LogProbabilities(temperature, classes)
    return BregmanPenalty(
        space,
        NegativeEntropy(),
        lambda at: space.of(teacher(at.batch)),
        weight * temperature**2,
        target_first=True,
    )


def icarl(teacher: Callable[[Batch], Tensor] | None, old: Any, known: int) -> BregmanPenalty:
    """iCaRL, in place of the loss: of each class by itself, KL(aim, now) of its chance.

    Aimed at are labels, and for old classes the teacher's chances.

    Args:
        teacher: From a batch to an old model's logits; None: there is none yet.
        old: Columns of the old classes.
        known: Classes so far, the first columns.
    """

    def aims(at: At) -> Tensor:
        aimed = torch.where(F.one_hot(at.batch["y"], known).bool(), torch.inf, -torch.inf)
        aimed = aimed.to(at.outputs.dtype)
        if teacher is not None:
            aimed[:, old] = teacher(at.batch)[:, old]
        return aimed

    return BregmanPenalty(
        lambda at: at.outputs[:, :known], BinaryEntropy(), aims, target_first=True
    )


def cpr(weight: float = 0.1, classes: Any = None) -> BregmanPenalty:
    """Classifier-projection regularisation: KL(now, uniform), less entropy is dearer."""
    space = LogProbabilities(classes=classes)

    def uniform(at: At) -> Tensor:
        now = space(at).detach()
        return torch.full_like(now, -math.log(now.shape[-1]))

    return BregmanPenalty(space, NegativeEntropy(), uniform, weight)


def anchored(
    anchor: Sequence[Tensor], importance: Sequence[Tensor] | None = None, weight: float = 1.0
) -> BregmanPenalty:
    """L2, EWC, online EWC, SI, MAS, RWalk: half the weighed squared distance of the weights.

    Args:
        anchor: Old weights, one tensor a parameter.
        importance: Fisher information, path integral or sensitivity; None: all one, which is L2.
        weight: Of the half; twice their strength for SI and MAS, which write none.
    """
    return BregmanPenalty(weights, QuadraticForm(importance), lambda at: anchor, weight)


def variational(
    now: Callable[[At], tuple[Tensor, Tensor]], mean: Tensor, variance: Tensor, weight: float = 1.0
) -> BregmanPenalty:
    """Variational continual learning: KL(now, old) of Gaussians over weights.

    Args:
        now: To the means and variances of the weights.
        mean: Those of the previous posterior.
        variance: Likewise.
        weight: Of the divergence, 1 / N in the loss of a mean over N examples.
    """
    old = natural(mean, variance)
    return BregmanPenalty(
        lambda at: natural(*now(at)),
        GaussianLogPartition(),
        lambda at: old,
        weight,
        target_first=True,
    )


def _labels(at: At) -> Tensor:
    """One-hot labels, by their logarithms."""
    return F.one_hot(at.batch["y"], at.outputs.shape[-1]).to(at.outputs.dtype).log()


class Unified(Method):
    """The unified objective: the loss of the batch, and divergences on it and on a memory.

        loss = loss(B) + sum_k D_k(B) + sum_j D_j(M_j)

    with every M_j a draw of its own from a reservoir of examples and of the logits of the pass in
    which they were stored. The penalties are objects, so it is not in the catalogue of names.

    Args:
        on_stream: Penalties on the batch as the model saw it, and on the weights.
        on_memory: Penalties on remembered examples.
        capacity: Examples remembered.
        batch_size: Examples a draw; None: as many as the stream brings.

    Raises:
        UsageError: If there is no penalty, or a number is out of range.

    Example:
        >>> Unified(on_memory=derpp(alpha=0.1, beta=0.5), capacity=500).buffer.capacity
        500
    """

    tags = Tags(
        family="penalty",
        title="A unified and general framework for continual learning",
        source="Wang et al., 2024",
        needs=frozenset({"labels"}),
        keeps=frozenset({"examples", "outputs"}),
    )

    def __init__(
        self,
        on_stream: Sequence[BregmanPenalty] = (),
        on_memory: Sequence[BregmanPenalty] = (),
        capacity: int = 200,
        batch_size: int | None = None,
    ) -> None:
        super().__init__()
        at_least(1, batch_size=batch_size)
        if not on_stream and not on_memory:
            raise UsageError("A unified objective needs at least one penalty.")
        self.on_stream, self.on_memory = tuple(on_stream), tuple(on_memory)
        self.capacity, self.batch_size = capacity, batch_size
        self.buffer = Buffer(capacity)

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        for penalty in self.on_stream:
            loss = loss + penalty(At(outputs, batch, learner.parameters))
        rows = self.batch_size or learner.batch_size
        draws = [self.buffer.sample(rows, learner.generator) for _ in self.on_memory]
        for penalty, replayed in zip(self.on_memory, draws, strict=True):
            if replayed:
                at = At(learner.forward(replayed), replayed, learner.parameters)
                loss = loss + penalty(at)
        if self.on_memory:
            seen = {**learner.incoming, STORED: outputs[: learner.stream_rows]}
            self.buffer.add(seen, learner.generator)
        return loss
