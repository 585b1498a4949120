"""The replay buffer: columns of examples, with storage and retrieval chosen apart."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from holdfast.data import SEQUENCES, Batch, Table, padded, shortened, size
from holdfast.errors import UsageError
from holdfast.memory.columns import Columns
from holdfast.memory.storage import keep_least, reservoir_slots

Storage = Literal["reservoir", "class_balanced", "task_balanced", "ring", "herding"]
Retrieval = Literal["uniform", "class_balanced"]

_GROUPED_BY = {"class_balanced": "y", "task_balanced": "task", "ring": "y", "herding": "y"}


class Buffer(Columns):
    """At most `capacity` examples, with any columns.

    Args:
        capacity: Rows kept.
        storage: Which rows are kept of all that were offered.
            `"reservoir"`: a uniform sample of everything (Vitter, Algorithm R);
            `"class_balanced"`: equal numbers a class, each a uniform sample of its class;
            `"task_balanced"`: the same by the `task` column;
            `"ring"`: equal numbers a class, the most recent ones;
            `"herding"`: equal numbers a class, those with the smallest `key` given to `add`.
            A full buffer makes room for a new class by shrinking the largest.
        retrieval: How `sample` draws: `"uniform"` over rows, or `"class_balanced"`: every class
            equally likely.

    Raises:
        UsageError: If the capacity is not positive or a policy does not exist.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> buffer = Buffer(capacity=4)
        >>> buffer.add({"x": torch.arange(10.0), "y": torch.zeros(10).long()}, generator)
        >>> len(buffer), len(buffer.sample(2, generator)["x"])
        (4, 2)
    """

    remembers = ("seen",)
    key: Tensor | None
    group: Tensor | None

    def __init__(
        self, capacity: int, storage: Storage = "reservoir", retrieval: Retrieval = "uniform"
    ) -> None:
        super().__init__()
        if capacity < 1:
            raise UsageError(f"A buffer's capacity must be at least 1; given: {capacity}.")
        for kind, given, accepted in (
            ("storage", storage, get_args(Storage)),
            ("retrieval", retrieval, get_args(Retrieval)),
        ):
            if given not in accepted:
                raise UsageError(f"{kind} must be one of {', '.join(accepted)}; given: {given!r}.")
        self.capacity, self.storage, self.retrieval = capacity, storage, retrieval
        self.seen = 0  # rows offered so far; plain numbers of a module are slow to set
        self.register_buffer("key", None)
        self.register_buffer("group", None)

    def __len__(self) -> int:
        return self.stored

    @property
    def stored(self) -> int:
        """Rows held: every policy keeps all rows while there is room, and stays full after."""
        return min(self.seen, self.capacity)

    @property
    def columns(self) -> Batch:
        """Everything stored, by column; the rows have no meaningful order.

        `held` has the same at full capacity, and a last row that takes what is not kept.
        """
        return {name: tensor[: self.stored] for name, tensor in self.held.items()}

    def table(self) -> Table | None:
        """Everything stored as a table, or None while the buffer is empty."""
        return Table(self.columns) if self.stored else None

    def add(
        self,
        batch: Batch,
        generator: torch.Generator,
        key: Tensor | None = None,
        slots: Tensor | None = None,
    ) -> None:
        """Offer rows; the storage policy decides which are kept and which are given up.

        Args:
            batch: Columns of the rows offered; the same names at every call. A column may be
                wider than before: stored rows are then padded with NaN.
            generator: On the batch's device.
            key: One number a row, for `"herding"`: smaller is kept first.
            slots: Where each row goes, in place of what the storage policy says: rows in turn to
                the first free slots, then to any; `capacity` for a row that is not kept.
        """
        rows = size(batch)
        if not rows:
            return
        room = self._room_for(batch)
        if slots is None and self.storage == "reservoir":
            slots = reservoir_slots(self.seen, rows, self.capacity, generator)
        elif slots is None:
            slots, batch = self._balanced_slots(batch, rows, generator, key)
        for name, held in room.items():
            held.index_copy_(0, slots, _fitted(name, batch[name], held))
        self.seen += rows

    def sample(self, count: int, generator: torch.Generator) -> Batch:
        """Draw rows without replacement: `count`, or all if fewer are stored (maybe none: `{}`)."""
        if not self.stored:
            return {}
        device = generator.device
        if self.retrieval == "class_balanced":
            y = self.columns["y"]
            weight = 1.0 / torch.bincount(y)[y].float()
            chosen = torch.multinomial(weight, min(count, self.stored), generator=generator)
        else:
            chosen = torch.randperm(self.stored, generator=generator, device=device)[:count]
        drawn = {name: held.index_select(0, chosen) for name, held in self.held.items()}
        # Elsewhere the longest row could not be had without waiting for the device.
        return shortened(drawn) if device.type == "cpu" else drawn

    def _room_for(self, batch: Batch) -> Batch:
        """What `held` answers, once there is room for every column of `batch`."""
        held = self.held
        for name, rows in batch.items():
            if name not in held:
                held[name] = rows.new_zeros((self.capacity + 1, *rows.shape[1:]))
            elif rows.shape[1:] != held[name].shape[1:]:
                template = held[name].new_empty((0, *rows.shape[1:]))
                held[name] = _wide(name, held[name], template)
            else:
                continue
            self.keep(name, held[name])
        return held

    def _balanced_slots(
        self, batch: Batch, rows: int, generator: torch.Generator, key: Tensor | None
    ) -> tuple[Tensor, Batch]:
        device = generator.device
        by = _GROUPED_BY[self.storage]
        if by not in batch:
            raise UsageError(
                f"{self.storage!r} storage needs a column {by!r} in every batch; "
                f"given: {', '.join(batch)}."
            )
        if self.storage == "ring":
            key = -torch.arange(self.seen, self.seen + rows, device=device, dtype=torch.float64)
        elif self.storage == "herding":
            if key is None:
                raise UsageError("'herding' storage needs the herding order as `key`.")
            key = key.double()
        else:
            key = torch.rand(rows, generator=generator, device=device, dtype=torch.float64)
        if self.key is None or self.group is None:
            self.key = torch.zeros(self.capacity + 1, dtype=torch.float64, device=device)
            self.group = torch.zeros(self.capacity + 1, dtype=torch.long, device=device)
        slots, order = keep_least(
            self.group[: self.capacity], self.key[: self.capacity], self.stored, batch[by], key
        )
        self.key.index_copy_(0, slots, key[order])
        self.group.index_copy_(0, slots, batch[by][order])
        return slots, {name: column[order] for name, column in batch.items()}


def _fitted(name: str, rows: Tensor, held: Tensor) -> Tensor:
    """Rows as a column holds them: without gradients, of its type, of its width."""
    if rows.requires_grad:
        rows = rows.detach()
    if rows.dtype != held.dtype:
        rows = rows.to(held.dtype)
    return _wide(name, rows, held)


def _wide(name: str, rows: Tensor, like: Tensor) -> Tensor:
    """Rows padded to the width of `like`: tokens as their column asks, numbers with NaN."""
    if name in SEQUENCES:
        return padded(name, rows, like.shape[-1])
    missing = like.shape[1] - rows.shape[1] if rows.dim() > 1 else 0
    if missing <= 0:
        return rows
    return torch.cat([rows, rows.new_full((len(rows), missing, *rows.shape[2:]), torch.nan)], 1)
