"""What a learner takes in bytes: its model, the examples it keeps, and everything beside them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from holdfast.data import Batch
from holdfast.memory.buffer import Buffer
from holdfast.memory.columns import Columns
from holdfast.memory.shares import Shares
from holdfast.method import Method
from holdfast.models.frozen import Passed

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Stream

_INPUTS = ("x", "input_ids")
"""Columns that are an example itself; others (labels, logits) go along with it."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of what a learner holds, each tensor counted once.

    What is compared at an equal budget is `deployed`: the model as it is used and the inputs of the
    examples kept, as in the deep class-incremental survey (Zhou et al., 2024). Teachers do not
    count there, nor what only later learning needs; `whole` has everything, so that it may be
    looked at beside.

    Attributes:
        model: The model's parameters, and its buffers but those of normalisation.
        use: Numbers of the method that its predictions need: class means, corrections, masks.
        examples: Inputs of the examples kept, as the stream has them (images as bytes).
        stored: How many examples those are.
        statistics: Running means and variances of normalisation.
        labels: What is kept with the examples (labels, logits, keys), room for more of them, and
            indices.
        teachers: Copies of the model.
        learning: Numbers of the method that only its learning needs: importances, anchors.
    """

    model: int = 0
    use: int = 0
    examples: int = 0
    stored: int = 0
    statistics: int = 0
    labels: int = 0
    teachers: int = 0
    learning: int = 0

    @property
    def deployed(self) -> int:
        """The model, what its predictions need, and the examples kept."""
        return self.model + self.use + self.examples

    @property
    def whole(self) -> int:
        """Every byte of state."""
        beside = self.statistics + self.labels + self.teachers + self.learning
        return self.deployed + beside

    def costs(self) -> dict[str, int]:
        """What a record has of it."""
        return {
            "model_bytes": self.model,
            "example_bytes": self.examples,
            "examples": self.stored,
            "deployed_bytes": self.deployed,
            "whole_bytes": self.whole,
        }


def memory_bytes(learner: Learner) -> Footprint:
    """What a learner holds at this moment, byte by byte.

    Of the model and the method, every tensor of their state is counted, in the bytes of its type,
    and those of a frozen backbone also where cached features stand for it; plain numbers and the
    optimizer are not. A tensor that both hold counts as the model's.

    Example:
        >>> from holdfast import Learner, models, streams
        >>> stream = streams.build("split-digits")
        >>> found = memory_bytes(Learner(models.build("mlp(width=8, depth=1)", stream)))
        >>> found.model == 4 * (64 * 8 + 8 + 8 * 10 + 10), found.deployed == found.whole
        (True, True)
    """
    count: dict[str, int] = {}
    met: set[int] = set()

    def add(kind: str, tensor: Tensor) -> None:
        if id(tensor) not in met:
            met.add(id(tensor))
            count[kind] = count.get(kind, 0) + tensor.nbytes

    for part in learner.model.modules():
        kind = "statistics" if isinstance(part, _NormBase) else "model"
        for parameter in part.parameters(recurse=False):
            add("model", parameter)
        for buffer in _own_buffers(part):
            add(kind, buffer)
        if isinstance(part, Passed):  # what is deployed looks through the backbone itself
            count["model"] = count.get("model", 0) + part.bytes
            count["statistics"] = count.get("statistics", 0) + part.statistics
    for method in learner.method.parts():
        uses = any(map(method.overrides, ("predict", "answer", "serving")))
        for part, kept_for in _parts(method, "use" if uses else "learning"):
            rows, columns = held(part)
            for name, column in columns.items():
                inputs = _bytes_a_row(part, column) * rows if name in _INPUTS else 0
                met.add(id(column))
                count["examples"] = count.get("examples", 0) + inputs
                count["labels"] = count.get("labels", 0) + column.nbytes - inputs
            count["stored"] = count.get("stored", 0) + rows
            for tensor in (*part.parameters(recurse=False), *_own_buffers(part)):
                beside = columns or not tensor.is_floating_point()
                add("labels" if beside and kept_for != "teachers" else kept_for, tensor)
    return Footprint(**count)


def held(part: nn.Module) -> tuple[int, Batch]:
    """How many examples a store holds, and its columns; none of what is no store."""
    columns = part.held if isinstance(part, Columns) else {}
    if not columns:
        return 0, {}
    if isinstance(part, Buffer):
        return part.stored, columns
    if isinstance(part, Shares):
        return sum(part.counts), columns
    return len(next(iter(columns.values()))), columns


def example_bytes(stream: Stream) -> int:
    """Bytes of one input, as the stream has it.

    Example:
        >>> from holdfast import streams
        >>> example_bytes(streams.build("split-digits"))
        64
    """
    train = stream[0].train
    return sum(train[name][:1].nbytes for name in _INPUTS if name in train)


def worth_in_examples(parameters: int, shape: tuple[int, ...]) -> float:
    """How many inputs of bytes take the room of so many 32-bit parameters.

    Example:
        >>> round(worth_in_examples(463_504, (3, 32, 32)), 1)  # a ResNet-32 in CIFAR's images
        603.5
    """
    return torch.float32.itemsize * parameters / math.prod(shape)


def _parts(module: nn.Module, kept_for: str) -> Iterator[tuple[nn.Module, str]]:
    """All modules of a method, and what each is kept for: as it says itself, or as its parent."""
    kept_for = getattr(module, "kept_for", kept_for)
    yield module, kept_for
    for child in module.children():
        if not isinstance(child, Method):
            yield from _parts(child, kept_for)


def _own_buffers(part: nn.Module) -> Iterator[Tensor]:
    for name, buffer in part._buffers.items():
        if buffer is not None and name not in part._non_persistent_buffers_set:
            yield buffer


def _bytes_a_row(part: nn.Module, column: Tensor) -> int:
    rows = column.shape[0] * (column.shape[1] if isinstance(part, Shares) else 1)
    return column.nbytes // rows if rows else 0
