"""Classifiers: a backbone and a head, also made from any module that ends in a linear layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.stream import Stream


class Classifier(nn.Module):
    """Features from `backbone`, logits from `head`.

    Args:
        backbone: From inputs to feature vectors.
        head: From feature vectors to logits.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def features(self, x: Tensor) -> Float[Tensor, "examples width"]:
        features: Tensor = self.backbone(x)
        return features

    def forward(self, x: Tensor) -> Float[Tensor, "examples classes"]:
        logits: Tensor = self.head(self.backbone(x))
        return logits


class Standardise(nn.Module):
    """Raw inputs (bytes or numbers) to zero mean and unit deviation.

    Args:
        mean: By channel, or one for all; in raw units.
        deviation: Likewise.
        dims: Dimensions of one input: 3 for images (channels, height, width), 1 for vectors,
            whose features then count as channels.
    """

    def __init__(self, mean: Sequence[float], deviation: Sequence[float], dims: int = 3) -> None:
        super().__init__()
        self.mean: Tensor
        self.factor: Tensor
        shape = (-1,) + (1,) * (dims - 1) if len(mean) > 1 else (1,)
        self.register_buffer("mean", torch.tensor(mean).view(shape), persistent=False)
        self.register_buffer("factor", 1 / torch.tensor(deviation).view(shape), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean).mul_(self.factor)


def as_classifier(model: nn.Module, stream: Stream | None = None) -> Classifier:
    """Split a module whose last submodule is linear into backbone and head; weights are shared.

    A classifier of transformers (`AutoModelForImageClassification`,
    `AutoModelForSequenceClassification`) is split where its own classifier begins; it takes images,
    or rows of tokens filled up with -1.

    Args:
        model: From inputs to logits; it is taken apart.
        stream: Whose raw inputs are standardised before they reach the model; None: it takes them
            as they come.

    Raises:
        UsageError: If the last submodule is not linear.
    """
    if isinstance(model, Classifier):
        return model
    split = _split(model)
    if stream is None or stream.tokens is not None:
        return split
    scale = Standardise(*stream.scale, dims=len(stream.shape))
    return Classifier(nn.Sequential(scale, split.backbone), split.head)


def _split(model: nn.Module) -> Classifier:
    if hasattr(model, "config") and hasattr(model, "main_input_name"):
        from holdfast.models.transformed import Headless

        headless = Headless(model)
        return Classifier(headless, headless.taken[0])
    leaves = [(name, part) for name, part in model.named_modules() if not list(part.children())]
    name, last = leaves[-1] if leaves else ("", model)
    if not isinstance(last, nn.Linear) or not name:
        raise UsageError(
            f"{type(model).__name__} does not end in a linear layer (its last part is a "
            f"{type(last).__name__}); give a Classifier(backbone, head) instead."
        )
    owner, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(owner) if owner else model, attribute, nn.Identity())
    return Classifier(model, last)
