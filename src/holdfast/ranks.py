"""Several processes that learn as one: what each has of a batch, and how their gradients are one.

Every process holds the same model and the same methods, draws the same random numbers and sees the
whole batch, so that every hook of a method does in each of them what it does in one alone; only
passes through the model are shared out. A process passes its part of the rows; outputs are gathered
where something looks at them; gradients are averaged before anything is done with them. Hence what
methods remember is equal in all processes, and learning with n processes of b examples each is
learning with one of n b examples, up to the rounding of sums.

The processes are those of `accelerate launch` (or `torchrun`); Accelerate sets them up.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from holdfast.data import Batch, size
from holdfast.errors import UsageError
from holdfast.models.norms import running

if TYPE_CHECKING:
    from holdfast.method import Method

AT_ONCE = 2**23
"""Numbers that are averaged between processes in one exchange: 32 MiB of single precision."""


class Ranks:
    """The processes that learn together, seen from one of them.

    Args:
        count: How many; 1: there is only this one, and nothing is exchanged.
        rank: Which of them this is, from 0.
    """

    def __init__(self, count: int = 1, rank: int = 0) -> None:
        self.count, self.rank = count, rank

    @staticmethod
    def here(device: torch.device) -> Ranks:
        """The processes that this one was launched with.

        Args:
            device: Where this one computes: gradients are exchanged from there.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return Ranks()
        from accelerate import PartialState

        state = PartialState(cpu=device.type == "cpu")
        return Ranks(state.num_processes, state.process_index)

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def part(self, batch: Batch) -> Batch:
        """This process's rows of a batch; all of them where there are fewer rows than processes."""
        start, end = self._bounds(size(batch))[self.rank]
        return {name: column[start:end] for name, column in batch.items()}

    def gathered(self, outputs: Tensor, rows: int) -> Tensor:
        """The outputs of all rows of a batch, from those of this process's part.

        Their gradient is that of the whole batch: averaged over processes, it is as if one had
        passed all rows.
        """
        if self.count == 1 or rows < self.count:
            return outputs
        gathered: Tensor = _Gathered.apply(outputs, self._bounds(rows), self)
        return gathered

    def share(self, part: Tensor | int, whole: Tensor | int) -> Tensor | float:
        """What the loss of a part is to be multiplied by, so that the average over processes is the
        loss of the whole."""
        return self.count * part / whole

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Put the average over all processes in place of each of these tensors."""
        if self.count == 1:
            return
        for group in _groups(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in group])
            torch.distributed.all_reduce(flat)
            flat /= self.count
            parts = flat.split([tensor.numel() for tensor in group])
            torch._foreach_copy_(
                list(group), [part.view_as(t) for part, t in zip(parts, group, strict=True)]
            )

    def settle(self, model: nn.Module) -> None:
        """Give all processes the same running statistics of normalisations: each has seen its part
        of every batch."""
        self.average(list(running(model)))

    def agree(self, value: Any) -> Any:
        """The first process's value, in all of them."""
        if self.count == 1:
            return value
        held = [value]
        torch.distributed.broadcast_object_list(held, src=0)
        return held[0]

    @contextmanager
    def first_speaks(self) -> Iterator[None]:
        """Within it, processes but the first print nothing."""
        if self.first:
            yield
            return
        with open(os.devnull, "w") as nowhere:
            spoken, sys.stdout = sys.stdout, nowhere
            try:
                yield
            finally:
                sys.stdout = spoken

    def refuse_alone(self, method: Method) -> None:
        """Raise `UsageError` if a method can only be at work in a single process."""
        for part in method.parts() if self.count > 1 else ():
            if alone(type(part)):
                raise UsageError(
                    f"{type(part).__name__} looks inside the model as a whole batch passes, which "
                    f"{self.count} processes share out: run it in one."
                )

    def _bounds(self, rows: int) -> list[tuple[int, int]]:
        """From which row to which each process goes."""
        if self.count == 1 or rows < self.count:
            return [(0, rows)] * self.count
        sizes = [rows // self.count + (rank < rows % self.count) for rank in range(self.count)]
        ends = list(accumulate(sizes))
        return [(end - length, end) for end, length in zip(ends, sizes, strict=True)]


def alone(method: type[Method]) -> bool:
    """Whether a method can only be at work in a single process.

    Example:
        >>> from holdfast.methods import ER, MIGU
        >>> alone(ER), alone(MIGU)
        (False, True)
    """
    return not method.shares_passes or method.tags.family in ("editing", "test-time")


class _Gathered(torch.autograd.Function):
    """All processes' outputs, in order."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, bounds: list[tuple[int, int]], ranks: Ranks) -> Tensor:
        ctx.own, ctx.count = bounds[ranks.rank], ranks.count
        most = max(end - start for start, end in bounds)
        padded = part.new_zeros((most, *part.shape[1:]))
        padded[: len(part)] = part
        pieces = [torch.empty_like(padded) for _ in bounds]
        torch.distributed.all_gather(pieces, padded)
        return torch.cat(
            [piece[: end - start] for piece, (start, end) in zip(pieces, bounds, strict=True)]
        )

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        start, end = ctx.own
        return gradient[start:end] * ctx.count, None, None


def _groups(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one type together, up to so many numbers at once."""
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        group = by_type.setdefault(tensor.dtype, [])
        if group and sum(t.numel() for t in group) + tensor.numel() > AT_ONCE:
            yield list(group)
            group.clear()
        group.append(tensor)
    yield from filter(None, by_type.values())
