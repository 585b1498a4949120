"""A side memory: changes of one matrix kept beside it, and a router that says when one is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from holdfast.models.beside import Beside, real
from holdfast.models.projections import Projection

LONG = 100
"""Tokens above which an input's activation is that of its most active token."""

Memories = tuple[list[Tensor], list[float]]


class SideMemory(Beside):
    """Changes D of a weight W, each with the least activation its own edits have caused.

        activation(x; D) = mean over tokens of || f(A (W + D)^T) - f(A W^T) ||_2

    with A the layer's inputs and f the model's activation function (or nothing). An input is
    answered with the change whose activation is largest among those that pass their threshold,
    `ratio` times the least activation of their edits; with none, by W alone. A row is decided once,
    when its prompt is read.

    Attributes:
        change: D of the shard at hand, trained; the layout of the weight.
        kept: Changes that are finished, `[memories, ...]`; None: none yet.
        least: Least activation of each, `[memories]`.
        ratio: Of the threshold.
        activation: Name of f in transformers; empty: none.
    """

    kind: ClassVar[str] = "side memory"
    remembers: ClassVar[tuple[str, ...]] = ("ratio", "activation", "layer", "record")

    change: Tensor
    kept: Tensor | None
    least: Tensor | None

    def __init__(self, ratio: float = 0.88, activation: str = "") -> None:
        super().__init__()
        self.ratio, self.activation = ratio, activation
        self.register_buffer("kept", None)
        self.register_buffer("least", None)
        self.training_pass = False
        self.serve: Callable[[], Memories] | None = None

    def served(self) -> Memories:
        """The changes in use and their least activations; a method may say what they are."""
        if self.serve is not None:
            return self.serve()
        if self.kept is None or self.least is None:
            return [], []
        return list(self.kept), self.least.tolist()

    def changed(self, projection: Projection, keys: Tensor, outputs: Tensor) -> Tensor:
        passing = self.passing
        if self.training_pass:
            edited = outputs + projection.mapped(keys, self.change.to(keys))
            passing.plain, passing.edited = outputs, edited
            return edited
        changes, least = self.served()
        if not changes:
            return outputs
        moved = [outputs + projection.mapped(keys, change.to(keys)) for change in changes]
        if passing.chosen is None:
            passing.chosen = self.routed(outputs, moved, least)
        if len(passing.chosen) != len(keys):
            raise RuntimeError(
                f"A prompt was read in {len(passing.chosen)} rows and goes on in {len(keys)}."
            )
        for at, each in enumerate(moved):
            outputs = torch.where((passing.chosen == at)[:, None, None], each, outputs)
        return outputs

    def routed(self, plain: Tensor, moved: list[Tensor], least: list[float]) -> Tensor:
        """Which change answers each row; -1: none."""
        tokens = real(self.passing, plain)
        found = torch.stack([self.measured(plain, each, tokens, served=True) for each in moved])
        floor = self.ratio * torch.tensor(least, device=found.device)[:, None]
        best, chosen = torch.where(found >= floor, found, -1.0).max(0)
        return torch.where(best >= 0, chosen, -1)

    def measured(
        self,
        plain: Float[Tensor, "rows width values"],
        edited: Float[Tensor, "rows width values"],
        tokens: Bool[Tensor, "rows width"],
        served: bool = False,
    ) -> Float[Tensor, " rows"]:
        """The activation of every row: what the change does to its tokens, by length of vector.

        Args:
            plain: Outputs of the layer.
            edited: Outputs with the change.
            tokens: Which of them count.
            served: Whether a long row is judged by its most active token.
        """
        f = self.function()
        moved: Tensor = f(edited.float()) - f(plain.float())
        length = moved.norm(dim=-1) * tokens
        mean: Tensor = length.sum(1) / tokens.sum(1).clamp(min=1)
        if not served:
            return mean
        return torch.where(tokens.sum(1) > LONG, length.max(1).values, mean)

    def function(self) -> Callable[[Tensor], Tensor]:
        """The activation function f."""
        if not self.activation:
            return nn.Identity()
        from transformers.activations import ACT2FN

        found: Callable[[Tensor], Tensor] = ACT2FN[self.activation]
        return found
