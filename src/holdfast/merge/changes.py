"""Changes of weights, tensor by tensor and piece by piece, whether they lie in files or in memory.

A piece is some rows of one tensor of all models at once. So as much is in memory as a few pieces
take, however large the tensors and however many the models.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

PIECE = 2**20
"""Entries of a piece, about: pieces of all models should fit into a processor's cache together."""


class Weights(Protocol):
    """Tensors by name, of which rows can be read."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor."""

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Some rows; the whole of a tensor without dimensions."""


@dataclass(frozen=True)
class Held:
    """Weights in memory: a state dict."""

    state: Mapping[str, Tensor]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.state[name].shape)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        tensor = self.state[name].detach()
        return tensor[start:stop] if tensor.dim() else tensor


@dataclass(frozen=True)
class Renamed:
    """Weights under other names.

    Attributes:
        weights: As they are.
        names: From the new name to the one there.
    """

    weights: Weights
    names: Mapping[str, str]

    def shape(self, name: str) -> tuple[int, ...]:
        return self.weights.shape(self.names[name])

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        return self.weights.rows(self.names[name], start, stop)


class Piece(NamedTuple):
    """Some rows of one tensor, in single precision.

    Attributes:
        start: The first row.
        stop: The row after the last.
        base: Of the origin; None where there is none.
        deltas: By model what it changes of the origin; without one its own rows.
    """

    start: int
    stop: int
    base: Tensor | None
    deltas: list[Tensor]


@dataclass(frozen=True)
class Changes:
    """What models change of one tensor.

    Attributes:
        name: Of the tensor.
        shape: That all have in common: fewer rows than some where vocabularies were resized.
        origin: What changes are counted from; None: from zero.
        models: In order.
    """

    name: str
    shape: tuple[int, ...]
    origin: Weights | None
    models: Sequence[Weights]

    def pieces(self) -> Iterator[Piece]:
        """All rows, in order."""
        for start, stop in spans(self.shape):
            base = None if self.origin is None else self.origin.rows(self.name, start, stop).float()
            rows = [model.rows(self.name, start, stop).float() for model in self.models]
            deltas = rows if base is None else [row - base for row in rows]
            yield Piece(start, stop, base, deltas)

    def magnitudes(self, model: int) -> NDArray[np.float32]:
        """Of all entries of one model's change, one after another."""
        found = torch.empty(math.prod(self.shape))
        at = 0
        for piece in Changes(self.name, self.shape, self.origin, [self.models[model]]).pieces():
            size = piece.deltas[0].numel()
            torch.abs(piece.deltas[0].flatten(), out=found[at : at + size])
            at += size
        whole: NDArray[np.float32] = found.numpy()
        return whole

    def generator(self, seed: int, model: int = 0) -> Generator:
        """Chance for this tensor and model, whatever else is merged, and in whatever order."""
        return seeded(f"{seed} {self.name} {model}")


Combine = Callable[[Piece], Tensor]
"""From a piece to the one change that its models' changes come to; called in order, row by row."""
Begin = Callable[[Changes], Combine]
"""Looks at all of a tensor, where a rule has to, before its pieces are combined."""


@dataclass(frozen=True)
class Inputs:
    """What is merged.

    Attributes:
        models: By the names of the origin, or of the first where there is none.
        origin: What changes are counted from; None: from zero.
        shapes: Of the tensors that are merged, in order.
        skeleton: The model without weights, for rules that ask what a tensor is.
    """

    models: Sequence[Weights]
    origin: Weights | None
    shapes: Mapping[str, tuple[int, ...]]
    skeleton: Callable[[], nn.Module]

    def changes(self, name: str) -> Changes:
        return Changes(name, self.shapes[name], self.origin, self.models)

    def merged(self, name: str, begin: Begin) -> Iterator[Tensor]:
        """The rows of a merged tensor in single precision, piece by piece."""
        changes = self.changes(name)
        combine = begin(changes)
        for piece in changes.pieces():
            change = combine(piece)
            yield change if piece.base is None else change.add_(piece.base)


def spans(shape: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where pieces of a tensor begin and end along its first dimension."""
    rows = shape[0] if shape else 1
    step = max(1, PIECE // max(1, math.prod(shape[1:])))
    for start in range(0, rows, step):
        yield start, min(rows, start + step)


def seeded(words: str) -> Generator:
    """A generator for some words, the same everywhere."""
    digest = hashlib.blake2b(words.encode(), digest_size=7).digest()
    return Generator().manual_seed(int.from_bytes(digest))
