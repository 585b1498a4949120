"""One objective for many methods: the loss of a batch, and Bregman divergences from what was.

    L(theta) = loss(B) + sum_k weight_k D_k

with every D a Bregman divergence in the space of outputs (of remembered or present inputs, from
targets) or in that of weights (from old ones). Of a convex function Phi,

    D(p, q) = Phi(p) - Phi(q) - <gradient of Phi at q, p - q>.

Experience replay, dark experience replay, distillation, the quadratic penalties and variational
continual learning differ in Phi, in the targets and in which of the two is p:

| method | space | Phi | p | q |
| --- | --- | --- | --- | --- |
| ER | class probabilities | negative entropy | labels | now |
| DER | logits | squared length | now | stored |
| DER++ | both of these | | | |
| FDR | class probabilities | squared length | now | stored |
| LwF | softened probabilities | negative entropy | the teacher's | now |
| iCaRL | chances of every class | negative entropy of each | labels, the teacher's | now |
| CPR | class probabilities | negative entropy | now | uniform |
| L2, EWC, SI, MAS, RWalk | weights | quadratic form | now | old |
| VCL | natural parameters | Gaussian log-partition | old | now |

`holdfast.unified` builds each of them, and a method of any sum of them.

Source: Wang, Li, Shao and Huang, "A unified and general framework for continual learning" (2024).

Differs from the paper: it writes all of them as D(now, target). That is not the cross-entropy to
one-hot labels, which it would make infinite, nor the divergence from a teacher, nor variational
learning's KL(now, old) in natural parameters: in these the target comes first (or, which is the
same, Phi is exchanged for its conjugate). Variational learning's other part, the loss expected
under the posterior, is not built here, and neither are projections of gradients, which the paper
names as a limit of an ever larger weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from holdfast.data import Batch
from holdfast.losses import quadratic_penalty

Point = Any
"""A tensor whose last dimension holds a point's coordinates, or one tensor a parameter."""


class Generator(Protocol):
    """A convex function Phi and its divergence."""

    def value(self, point: Point) -> Tensor:
        """Phi, one number a point."""
        ...

    def divergence(self, p: Point, q: Point) -> Tensor:
        """D(p, q) in closed form, one number a pair of points; with gradients by both."""
        ...


@dataclass(frozen=True)
class NegativeEntropy:
    """Phi(p) = sum p log p on probabilities, told by their logarithms: D is the KL divergence.

    Probabilities may be zero in p where they are not in q.

    Example:
        >>> p = torch.tensor([0.0, 1.0]).log()
        >>> round(float(NegativeEntropy().divergence(p, torch.tensor([0.5, 0.5]).log())), 4)
        0.6931
    """

    def value(self, point: Float[Tensor, "*points width"]) -> Float[Tensor, "*points"]:
        value: Tensor = torch.special.xlogy(point.exp(), point.exp()).sum(-1)
        return value

    def divergence(
        self, p: Float[Tensor, "*points width"], q: Float[Tensor, "*points width"]
    ) -> Float[Tensor, "*points"]:
        chance = p.exp()
        ratio = (p - q).masked_fill(p == -torch.inf, 0.0)
        return (chance * ratio - chance + q.exp()).sum(-1)


@dataclass(frozen=True)
class BinaryEntropy:
    """Phi(p) = sum p log p + (1 - p) log(1 - p) on chances of their own, told by their logits: D is
    the sum of the classes' KL divergences.

    Chances may be 0 or 1 in p: logits of minus or plus infinity.

    Example:
        >>> p = torch.tensor([torch.inf, -torch.inf])
        >>> round(float(BinaryEntropy().divergence(p, torch.zeros(2))), 4)  # 2 log 2
        1.3863
    """

    def value(self, point: Float[Tensor, "*points width"]) -> Float[Tensor, "*points"]:
        chance, other = point.sigmoid(), (-point).sigmoid()
        both: Tensor = torch.special.xlogy(chance, chance) + torch.special.xlogy(other, other)
        return both.sum(-1)

    def divergence(
        self, p: Float[Tensor, "*points width"], q: Float[Tensor, "*points width"]
    ) -> Float[Tensor, "*points"]:
        cross = F.binary_cross_entropy_with_logits(q, p.sigmoid(), reduction="none")
        return self.value(p) + cross.sum(-1)


@dataclass(frozen=True)
class SquaredLength:
    """Phi(p) = |p|^2: D is the squared distance."""

    def value(self, point: Float[Tensor, "*points width"]) -> Float[Tensor, "*points"]:
        return point.square().sum(-1)

    def divergence(
        self, p: Float[Tensor, "*points width"], q: Float[Tensor, "*points width"]
    ) -> Float[Tensor, "*points"]:
        return (p - q).square().sum(-1)


@dataclass(frozen=True)
class QuadraticForm:
    """Phi(w) = 1/2 sum_i F_i w_i^2 on a model's weights: D is half the weighed squared distance.

    Args:
        diagonal: F, one tensor a parameter, not negative; None: all one.
    """

    diagonal: Sequence[Tensor] | None = None

    def value(self, point: Sequence[Tensor]) -> Float[Tensor, ""]:
        return quadratic_penalty(point, [torch.zeros_like(w) for w in point], self.diagonal)

    def divergence(self, p: Sequence[Tensor], q: Sequence[Tensor]) -> Float[Tensor, ""]:
        return quadratic_penalty(p, q, self.diagonal)


@dataclass(frozen=True)
class GaussianLogPartition:
    """A(eta) of independent Gaussians: D(p, q) is the KL divergence of p from q, KL(q || p).

    A point has two rows of natural parameters, eta_1 = mean / variance and eta_2 = -1 / (2
    variance); `natural` gives them.

    Example:
        >>> old, now = natural(torch.zeros(1), torch.ones(1)), natural(torch.ones(1), torch.ones(1))
        >>> float(GaussianLogPartition().divergence(old, now))
        0.5
    """

    def value(self, point: Float[Tensor, "2 *points width"]) -> Float[Tensor, "*points"]:
        first, second = point
        value: Tensor = (-first.square() / (4 * second) - 0.5 * torch.log(-2 * second)).sum(-1)
        return value

    def divergence(
        self, p: Float[Tensor, "2 *points width"], q: Float[Tensor, "2 *points width"]
    ) -> Float[Tensor, "*points"]:
        mean, variance = -q[0] / (2 * q[1]), -1 / (2 * q[1])
        away = p - q
        moments = away[0] * mean + away[1] * (mean.square() + variance)
        return self.value(p) - self.value(q) - moments.sum(-1)


def natural(mean: Tensor, variance: Tensor) -> Float[Tensor, "2 ..."]:
    """The natural parameters of Gaussians."""
    return torch.stack([mean / variance, -0.5 / variance])


class At(NamedTuple):
    """Where an objective is looked at.

    Attributes:
        outputs: Logits on the rows that the penalty is about.
        batch: Those rows, with what was stored of them.
        parameters: The model's, one tensor each.
    """

    outputs: Tensor
    batch: Batch
    parameters: Sequence[Tensor] = ()


@dataclass(frozen=True)
class BregmanPenalty:
    """A weight times the mean divergence between what is and a target, in a space.

    Coordinates in which the target is NaN do not count: they did not exist when it was stored.

    Args:
        space: From where one looks to the points that are.
        generator: Phi.
        target: From where one looks to the points that are aimed at.
        weight: Of the mean over points.
        target_first: Whether D(target, now) is meant, and not D(now, target).
        by_coordinate: Whether the sum over points is divided by the number of coordinates that
            count, and not by that of points.
    """

    space: Callable[[At], Point]
    generator: Generator
    target: Callable[[At], Point]
    weight: float = 1.0
    target_first: bool = False
    by_coordinate: bool = False

    def __call__(self, at: At) -> Float[Tensor, ""]:
        """The penalty, with its gradient."""
        now, target = self.space(at), self.target(at)
        count: Tensor | int = 1
        if isinstance(now, Tensor):
            now = now[..., : target.shape[-1]]
            known = ~target.isnan()
            now, target = torch.where(known, now, 0.0), torch.where(known, target, 0.0)
            if self.by_coordinate:
                count = known.sum()
        pair = (target, now) if self.target_first else (now, target)
        found = self.generator.divergence(*pair)
        if not self.by_coordinate:
            count = max(1, found.numel())
        return self.weight * found.sum() / count


def objective(penalties: Sequence[BregmanPenalty], loss: Tensor, at: At) -> Float[Tensor, ""]:
    """The unified objective: a loss and its penalties."""
    return loss + torch.stack([penalty(at) for penalty in penalties]).sum()
