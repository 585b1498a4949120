"""Class prototypes: means of features, kept as sums so that they can be continued."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.memory.remembers import Remembers


class Prototypes(Remembers):
    """One mean feature vector a class; as a module, a nearest-mean classifier.

    Args:
        features: Width of the feature vectors.
        classes: Number of classes.
        normalise: Compare directions: features and means have unit length.

    Example:
        >>> prototypes = Prototypes(features=1, classes=2)
        >>> prototypes.add(torch.tensor([[0.0], [2.0], [9.0]]), torch.tensor([0, 0, 1]))
        >>> prototypes.means.flatten().tolist()
        [1.0, 9.0]
        >>> prototypes(torch.tensor([[3.0]])).tolist()
        [[-4.0, -36.0]]
    """

    sums: Tensor
    counts: Tensor

    def __init__(self, features: int, classes: int, normalise: bool = False) -> None:
        super().__init__()
        self.normalise = normalise
        self.register_buffer("sums", torch.zeros(classes, features))
        self.register_buffer("counts", torch.zeros(classes))

    @property
    def means(self) -> Float[Tensor, "classes features"]:
        """Zero for a class without examples."""
        means = self.sums / self.counts.clamp(min=1)[:, None]
        return F.normalize(means) if self.normalise else means

    def add(
        self, features: Float[Tensor, "examples features"], labels: Int[Tensor, " examples"]
    ) -> None:
        """Let examples count towards the means of their classes."""
        if self.normalise:
            features = F.normalize(features)
        self.sums.index_add_(0, labels, features.to(self.sums.dtype))
        self.counts.index_add_(0, labels, torch.ones_like(labels, dtype=self.counts.dtype))

    def clear(self) -> None:
        """Forget all examples."""
        self.sums.zero_()
        self.counts.zero_()

    def forward(
        self, features: Float[Tensor, "examples features"]
    ) -> Float[Tensor, "examples classes"]:
        """Negative squared distance to every mean; minus infinity for a class without examples."""
        if self.normalise:
            features = F.normalize(features)
        distances = torch.cdist(
            features.to(self.sums.dtype), self.means, compute_mode="donot_use_mm_for_euclid_dist"
        )
        return (-distances.square()).masked_fill(self.counts == 0, -torch.inf)
