"""Ridge regression on random features, continued from sums."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.errors import DataError
from holdfast.memory.remembers import Remembers

RIDGES = tuple(10.0**power for power in range(-8, 9))
"""From which one is chosen."""
ROWS = 1024
"""Examples projected at a time."""
NOT_FINITE = "The features of the backbone are not finite: its weights or its inputs are damaged."


class RandomRidge(Remembers):
    """A linear classifier of random features, by ridge regression on one-hot labels.

        phi = max(0, h W_rand),   G = sum phi^T phi,   Q = sum phi^T y,   W = (G + rho I)^-1 Q

    Nothing is projected until `prepare` is called; before that, and for classes without an
    example, logits are minus infinity.

    Args:
        features: Width of the feature vectors h.
        classes: Number of classes.

    Example:
        >>> ridge = RandomRidge(features=1, classes=2)
        >>> ridge.prepare(0, torch.Generator())  # features as they are
        >>> ridge.add(torch.tensor([[1.0], [1.0]]), torch.tensor([0, 1]))
        >>> ridge.solve(2.0)
        2.0
        >>> ridge.weight.tolist()  # 1 / (1 + 1 + 2)
        [[0.25, 0.25]]

    Source: McDonnell et al., "RanPAC: Random projections and pre-trained models for continual
    learning" (2023), section 4.
    """

    projection: Tensor | None
    gram: Tensor
    moments: Tensor
    weight: Tensor
    counts: Tensor

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.features, self.classes = features, classes
        for name in ("projection", "gram", "moments", "weight"):
            self.register_buffer(name, None)
        self.register_buffer("counts", torch.zeros(classes))

    @property
    def ready(self) -> bool:
        return self.gram is not None

    def prepare(
        self, projections: int, generator: torch.Generator, dtype: torch.dtype = torch.float64
    ) -> None:
        """Draw the projection and begin with empty sums.

        Args:
            projections: How many random features; 0: those given, as they are.
            generator: Draws standard normal numbers.
            dtype: Of the sums and of what is solved.
        """
        device = self.counts.device
        if projections:
            shape = (self.features, projections)
            self.projection = torch.randn(shape, generator=generator, device=device)
        width = projections or self.features
        self.gram = torch.zeros(width, width, dtype=dtype, device=device)
        self.moments = torch.zeros(width, self.classes, dtype=dtype, device=device)
        self.weight = torch.zeros_like(self.moments)

    def project(self, features: Float[Tensor, "examples features"]) -> Float[Tensor, "examples m"]:
        """The random features, in the precision of the sums."""
        if self.projection is None:
            return features.to(self.gram.dtype)
        with torch.autocast(features.device.type, enabled=False):  # as when they were summed
            return (features.float() @ self.projection).relu_().to(self.gram.dtype)

    def add(
        self, features: Float[Tensor, "examples features"], labels: Int[Tensor, " examples"]
    ) -> None:
        """Let examples count."""
        self._sum(self.gram, self.moments, features, labels)
        self._count(labels)

    def add_and_choose(
        self,
        features: Float[Tensor, "examples features"],
        labels: Int[Tensor, " examples"],
        held_out: Int[Tensor, " rows"],
    ) -> float:
        """Let examples count, and find the ridge with the least squared error on some of them.

        For each ridge the others alone are solved for. Where they are fewer than the random
        features, this is done in the form dual to it, W = phi^T (phi phi^T + rho I)^-1 y. A ridge
        too small for the precision, with which the system is not positive definite, is left out.

        Args:
            held_out: Numbers of the examples to choose by.

        Returns:
            The ridge, one of `RIDGES`.

        Raises:
            DataError: If features are NaN or infinite.
        """
        mask = torch.ones_like(labels, dtype=torch.bool)
        mask[held_out] = False
        x, y = features[mask], labels[mask]
        classes = y.unique()  # others have no weight, and the same error whatever the ridge
        losses: Tensor
        if len(y) < len(self.gram):
            phi = self.project(x)
            self.gram.addmm_(phi.T, phi)
            self.moments += phi.T @ self._one_hot(y)
            answers = (y[:, None] == classes).to(phi)
            tried = _solutions(phi @ phi.T, answers)
            losses = self._losses(tried, features[held_out], labels[held_out], classes, phi)
        else:
            gram, moments = torch.zeros_like(self.gram), torch.zeros_like(self.moments)
            self._sum(gram, moments, x, y)
            tried = _solutions(gram, moments[:, classes])
            losses = self._losses(tried, features[held_out], labels[held_out], classes)
            self.gram += gram
            self.moments += moments
        self._sum(self.gram, self.moments, features[held_out], labels[held_out])
        self._count(labels)
        if bool(losses.isnan().any()):
            raise DataError(NOT_FINITE)
        return list(tried)[int(losses.argmin())]

    def solve(self, ridge: float) -> float:
        """Bring the classifier up to date.

        Returns:
            The ridge used: the one given, or the next in powers of ten with which the system is
            positive definite in this precision.

        Raises:
            DataError: If features are NaN or infinite.
        """
        while (weight := _solved(self.gram, ridge, self.moments)) is None:
            if ridge > RIDGES[-1]:
                raise DataError(NOT_FINITE)
            ridge *= 10
        self.weight.copy_(weight)
        return ridge

    def forward(
        self, features: Float[Tensor, "examples features"]
    ) -> Float[Tensor, "examples classes"]:
        """Logits as of the last `solve`; minus infinity for a class without examples."""
        if not self.ready:
            return features.new_full((len(features), self.classes), -torch.inf)
        logits = self.project(features) @ self.weight
        return logits.masked_fill(self.counts == 0, -torch.inf)

    def _losses(
        self,
        tried: dict[float, Tensor],
        features: Tensor,
        labels: Tensor,
        classes: Tensor,
        basis: Tensor | None = None,
    ) -> Float[Tensor, " ridges"]:
        """Squared error of each solution on held-out examples, summed."""
        weights = torch.stack(list(tried.values()))
        losses = weights.new_zeros(len(weights))
        for x, y in zip(features.split(ROWS), labels.split(ROWS), strict=True):
            phi = self.project(x)
            if basis is not None:
                phi = phi @ basis.T
            wrong = phi @ weights - (y[:, None] == classes).to(phi)
            losses += wrong.square().sum((1, 2))
        return losses

    def _sum(self, gram: Tensor, moments: Tensor, features: Tensor, labels: Tensor) -> None:
        for x, y in zip(features.split(ROWS), labels.split(ROWS), strict=True):
            phi = self.project(x)
            gram.addmm_(phi.T, phi)
            moments.addmm_(phi.T, self._one_hot(y))

    def _count(self, labels: Tensor) -> None:
        self.counts.index_add_(0, labels, torch.ones_like(labels, dtype=self.counts.dtype))

    def _one_hot(self, labels: Tensor) -> Tensor:
        answers = torch.zeros(
            len(labels), self.classes, dtype=self.gram.dtype, device=labels.device
        )
        return answers.scatter_(1, labels[:, None], 1.0)


def _solutions(gram: Tensor, targets: Tensor) -> dict[float, Tensor]:
    """(gram + ridge I)^-1 targets for every ridge with which that can be solved."""
    found = ((ridge, _solved(gram, ridge, targets)) for ridge in RIDGES)
    solved = {ridge: solution for ridge, solution in found if solution is not None}
    if not solved:
        raise DataError(NOT_FINITE)
    return solved


def _solved(gram: Tensor, ridge: float, targets: Tensor) -> Tensor | None:
    """(gram + ridge I)^-1 targets; None if it is not positive definite in this precision.

    The ridge is put onto the diagonal and taken off again, so that the factor is the only copy.
    """
    diagonal = gram.diagonal()
    kept = diagonal.clone()
    diagonal.add_(ridge)
    factor, failed = torch.linalg.cholesky_ex(gram)
    diagonal.copy_(kept)
    if bool(failed):
        return None
    half = torch.linalg.solve_triangular(factor, targets, upper=False)
    solved: Tensor = torch.linalg.solve_triangular(factor.mT, half, upper=True)
    return solved
