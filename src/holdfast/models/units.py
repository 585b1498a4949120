"""Units: the matrices of a transformer block, also where several share one tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal[
    "q", "k", "v", "o", "qkv", "kv", "gate", "up", "down", "fc1", "fc2", "norm", "router", "other"
]
Category = Literal["attention", "cross_attention", "feedforward", "norm", "other"]


@dataclass(frozen=True)
class Part:
    """A parameter, or those of its entries that belong to one unit.

    Along dimension `dim` the unit has the entries i with offset <= i mod period < offset + width:
    one range where the period is the whole dimension, several where heads alternate.

    Attributes:
        parameter: Its name in the model.
        expert: Row of the first dimension, where all experts are stored in one tensor.
        dim: Dimension along which units follow one another.
        offset: Where the unit begins in each period.
        width: How many entries it has in each period; 0: all.
        period: After how many entries the units alternate again; 0: never.

    Example:
        >>> every_third = Part("w", dim=0, offset=1, width=1, period=3)
        >>> every_third.mask(torch.Size((6, 2))).flatten().tolist()
        [False, True, False, False, True, False]
    """

    parameter: str
    expert: int | None = None
    dim: int = 0
    offset: int = 0
    width: int = 0
    period: int = 0

    @property
    def whole(self) -> bool:
        """Whether the unit is the whole parameter."""
        return self.expert is None and not self.width

    def mask(self, shape: torch.Size, device: torch.device | str | None = None) -> Tensor:
        """Which entries of a tensor of this shape belong to the unit; broadcasts against it."""
        mask = torch.ones((1,) * len(shape), dtype=torch.bool, device=device)
        if self.expert is not None:
            mask = mask & _along(0, torch.arange(shape[0], device=device) == self.expert, shape)
        if self.width:
            place = torch.arange(shape[self.dim], device=device) % (self.period or shape[self.dim])
            inside = (place >= self.offset) & (place < self.offset + self.width)
            mask = mask & _along(self.dim, inside, shape)
        return mask

    def count(self, shape: torch.Size) -> int:
        """How many entries of a tensor of this shape belong to the unit."""
        entries = shape.numel() if self.expert is None else shape.numel() // shape[0]
        if self.width:
            entries = entries // (self.period or shape[self.dim]) * self.width
        return entries


@dataclass(frozen=True)
class Unit:
    """One matrix of a block (or one norm), with its biases.

    Attributes:
        name: For people: the module's name, with the kind in brackets where it shares a tensor.
        block: Name of the block.
        kind: What it does there.
        category: To which part of the block it belongs.
        weight: Where its entries lie.
        biases: Where those of its biases lie.
        expert: Name of the expert it belongs to, within the block; empty where there are none.
    """

    name: str
    block: str
    kind: Kind
    category: Category
    weight: Part
    biases: tuple[Part, ...] = ()
    expert: str = ""

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self.weight, *self.biases)


def _along(dim: int, row: Tensor, shape: torch.Size) -> Tensor:
    """A vector laid along one dimension, so that it broadcasts against `shape`."""
    return row.view([-1 if at == dim else 1 for at in range(len(shape))])
