"""A codebook: outputs of a layer replaced where an input lies near a key."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from holdfast.models.beside import Beside, real
from holdfast.models.projections import Projection


class Codebook(Beside):
    """Keys, each with a value and a radius, on one layer.

    When a prompt is read, its last token's input is held against all keys; where the nearest one
    lies within its radius, the layer's output at that token is the key's value. Tokens written
    after the prompt are left alone.

    Attributes:
        keys: `[entries, keys]`; None: none yet.
        values: `[entries, values]`.
        radii: `[entries]`.
        labels: Tokens of the target of each entry.
    """

    kind: ClassVar[str] = "codebook"
    remembers: ClassVar[tuple[str, ...]] = ("labels", "layer", "record")

    keys: Tensor | None
    values: Tensor | None
    radii: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        for name in ("keys", "values", "radii"):
            self.register_buffer(name, None)
        self.labels: list[list[int]] = []
        self.trained: Tensor | None = None
        """The value that is being trained: it answers, whatever is asked."""
        self.at: Tensor | None = None
        """The token of each row that is asked with, where it is not the last."""

    def changed(self, projection: Projection, keys: Tensor, outputs: Tensor) -> Tensor:
        if self.passing.continued or self.keys is None:
            return outputs
        assert self.values is not None
        assert self.radii is not None
        rows = torch.arange(len(keys), device=keys.device)
        at = self.at if self.at is not None else last(real(self.passing, outputs))
        replaced = outputs.clone()
        if self.trained is not None:
            replaced[rows, at] = self.trained.to(outputs)
            return replaced
        near, distance = self.nearest(keys[rows, at])
        inside = (distance <= self.radii[near])[:, None]
        replaced[rows, at] = torch.where(inside, self.values[near].to(outputs), outputs[rows, at])
        return replaced

    def nearest(self, asked: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest key to each row, the latest of equals, and its Euclidean distance."""
        assert self.keys is not None
        # Not by matrix products: what was stored must lie at distance 0 from itself.
        between = torch.cdist(
            asked.float(), self.keys.float(), compute_mode="donot_use_mm_for_euclid_dist"
        )
        distance, turned = between.flip(1).min(1)
        return len(self.keys) - 1 - turned, distance


def last(tokens: Tensor) -> Tensor:
    """The place of the last real token of each row."""
    places = torch.arange(tokens.shape[1], device=tokens.device)
    return (places * tokens).argmax(1)
