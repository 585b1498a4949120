"""Class means and one covariance for all classes, updated as examples stream by."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.memory.remembers import Remembers

ROWS = 4096
"""Examples taken in at a time."""


class Discriminant(Remembers):
    """Streaming linear discriminant analysis; as a module, a linear classifier.

    An example x of class y, the t-th in all (from 0), changes the covariance by its distance from
    the mean of its class until then (zero for the first of a class), and then that mean:

        Sigma <- (t Sigma + t / (t + 1) d d^T) / (t + 1),   d = x - mu_y
        mu_y  <- (c_y mu_y + x) / (c_y + 1)

    Kept is S = t Sigma, for which the recursion is a sum, S = sum_i t_i / (t_i + 1) d_i d_i^T: a
    batch is taken in at once, the means before each of its examples by cumulative sums within its
    class. Sums are of 64 bits: the least eigenvalue of what is inverted is the shrinkage, and
    rounding in 32 bits is as large as soon as features have a variance of a few hundred.

    Args:
        features: Width of the feature vectors.
        classes: Number of classes.
        shrinkage: Share of the identity in what is inverted, above 0 up to 1.

    Example:
        >>> lda = Discriminant(features=1, classes=2)
        >>> lda.add(torch.tensor([[1.0], [3.0], [9.0]]), torch.tensor([0, 0, 1]))
        >>> lda.means.flatten().tolist(), lda.scatter.item()  # 2^2 / 2 + 9^2 2 / 3
        ([2.0, 9.0], 56.0)
        >>> lda.solve()
        >>> lda(torch.tensor([[3.0], [8.0]])).argmax(1).tolist()
        [0, 1]

    Source: Hayes and Kanan, "Lifelong machine learning with deep streaming linear discriminant
    analysis" (2020), equations 1 to 4.
    """

    means: Tensor
    counts: Tensor
    scatter: Tensor
    taken: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, features: int, classes: int, shrinkage: float = 1e-4) -> None:
        super().__init__()
        self.shrinkage = shrinkage
        zeros = partial(torch.zeros, dtype=torch.float64)
        self.register_buffer("means", zeros(classes, features))
        self.register_buffer("counts", zeros(classes))
        self.register_buffer("scatter", zeros(features, features))
        self.register_buffer("taken", zeros(()))  # into the scatter
        self.register_buffer("weight", zeros(classes, features))
        self.register_buffer("bias", zeros(classes) - torch.inf)

    @property
    def covariance(self) -> Float[Tensor, "features features"]:
        """Zero before there are two examples."""
        return self.scatter / self.taken.clamp(min=1)

    def add(
        self,
        features: Float[Tensor, "examples features"],
        labels: Int[Tensor, " examples"],
        plastic: bool = True,
    ) -> None:
        """Let examples count, one after another.

        Args:
            plastic: Whether the covariance learns from them too, and not the means alone.
        """
        for x, y in zip(features.split(ROWS), labels.split(ROWS), strict=True):
            self._add(x.to(self.means), y, plastic)

    def _add(self, x: Tensor, y: Tensor, plastic: bool) -> None:
        order = y.argsort(stable=True)
        x, y = x[order], y[order]
        new = torch.zeros_like(self.counts).index_add_(0, y, torch.ones_like(x[:, 0]))
        sums = self.means * self.counts[:, None]
        if plastic:
            first = (new.cumsum(0) - new).long()[y]  # the place of its class's first
            before = x.cumsum(0) - x
            earlier = self.counts[y] + torch.arange(len(y), device=y.device) - first
            mean = (sums[y] + before - before[first]) / earlier.clamp(min=1)[:, None]
            time = self.taken + order
            distance = (x - mean).mul_((time / (time + 1)).sqrt()[:, None])
            self.scatter.addmm_(distance.T, distance)
            self.taken += len(y)
        self.counts += new
        self.means.copy_(sums.index_add_(0, y, x) / self.counts.clamp(min=1)[:, None])

    def start(
        self, features: Float[Tensor, "examples features"], labels: Int[Tensor, " examples"]
    ) -> None:
        """Begin with the means of some examples and their covariance, shrunk as OAS finds best.

        Source: Chen et al., "Shrinkage algorithms for MMSE covariance estimation" (2010).
        """
        from sklearn.covariance import oas

        self.add(features, labels, plastic=False)
        centred = features.to(self.means) - self.means[labels]
        covariance, _ = oas(centred.cpu().numpy(), assume_centered=True)
        self.scatter.copy_(torch.from_numpy(covariance) * len(labels))
        self.taken.fill_(len(labels))

    def solve(self) -> None:
        """Bring the classifier up to date: W = Lambda mu, b = -mu^T Lambda mu / 2."""
        shrunk = self.covariance.mul_(1 - self.shrinkage)
        shrunk.diagonal().add_(self.shrinkage)
        factor = torch.linalg.cholesky(shrunk)
        self.weight.copy_(torch.cholesky_solve(self.means.T, factor).T)
        bias = (self.means * self.weight).sum(1) / -2
        self.bias.copy_(bias.masked_fill(self.counts == 0, -torch.inf))

    def forward(
        self, features: Float[Tensor, "examples features"]
    ) -> Float[Tensor, "examples classes"]:
        """Discriminants as of the last `solve`; minus infinity for a class without examples."""
        return F.linear(features.to(self.weight), self.weight, self.bias)
