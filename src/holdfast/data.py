"""Batches and tables: examples as columns of tensors.

A batch is a dictionary of tensors whose first dimension is the example. A `Table` is a batch too
large to be one: columns in memory, indexable by a tensor of row numbers, on any device. Drawing a
batch is one `index_select` per column: there are no worker processes and no Python per example.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from holdfast.errors import DataError

Batch = dict[str, Tensor]


def size(batch: Mapping[str, Tensor]) -> int:
    """The number of examples in a batch."""
    return len(next(iter(batch.values())))


def columns(classes: Sequence[int]) -> slice | list[int]:
    """An index for the logits of some classes: a slice, which copies nothing, where one will do.

    Example:
        >>> columns([2, 0, 1]), columns([0, 2])
        (slice(0, 3, None), [0, 2])
    """
    ordered = sorted(classes)
    if ordered and ordered[-1] - ordered[0] + 1 == len(ordered):
        return slice(ordered[0], ordered[-1] + 1)
    return ordered


def concat(batch: Batch, *others: Batch | None) -> Batch:
    """Append the rows of `others` to `batch`.

    The first rows of the result are those of `batch`, in order. Columns that `batch` does not
    have are dropped; `None` and empty dictionaries add nothing.
    """
    parts = [batch, *(other for other in others if other)]
    if len(parts) == 1:
        return batch
    return {name: torch.cat([part[name] for part in parts]) for name in batch}


class Table:
    """Columns of tensors with one row per example.

    Args:
        columns: Name to tensor; all tensors share their first dimension and their device.

    Raises:
        DataError: If the columns are missing or differ in length.

    Example:
        >>> table = Table({"x": torch.arange(6).view(3, 2), "y": torch.tensor([0, 1, 0])})
        >>> table[torch.tensor([2, 0])]["x"].tolist()
        [[4, 5], [0, 1]]
        >>> len(table.where(table["y"] == 0))
        2
    """

    def __init__(self, columns: Mapping[str, Tensor]) -> None:
        lengths = {name: len(column) for name, column in columns.items()}
        if not lengths:
            raise DataError("A table needs at least one column; none was given.")
        if len(set(lengths.values())) > 1:
            raise DataError(f"The columns of a table must have equal length; given: {lengths}.")
        self.columns: Batch = dict(columns)

    def __len__(self) -> int:
        return size(self.columns)

    def __getitem__(self, key: Any) -> Any:
        """A column by name, or the batch of the rows in a tensor of row numbers or a slice."""
        if isinstance(key, str):
            return self.columns[key]
        if isinstance(key, slice):
            return {name: column[key] for name, column in self.columns.items()}
        return {name: column.index_select(0, key) for name, column in self.columns.items()}

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def __repr__(self) -> str:
        columns = ", ".join(f"{k}: {tuple(v.shape[1:])} {v.dtype}" for k, v in self.columns.items())
        return f"Table({len(self)} rows; {columns})"

    @property
    def device(self) -> torch.device:
        return next(iter(self.columns.values())).device

    @property
    def nbytes(self) -> int:
        """Bytes held by all columns."""
        return sum(column.nbytes for column in self.columns.values())

    def take(self, rows: Tensor | slice) -> Table:
        """The table of the given rows."""
        return Table(self[rows])

    def where(self, mask: Tensor) -> Table:
        """The table of the rows where `mask` (bool, one entry a row) holds."""
        return self.take(mask.nonzero().flatten())

    def with_columns(self, **columns: Tensor) -> Table:
        """The same rows with columns added or replaced."""
        return Table({**self.columns, **columns})

    def to(self, device: torch.device | str) -> Table:
        return Table({name: column.to(device) for name, column in self.columns.items()})

    def chunks(self, rows: int) -> Iterator[Batch]:
        """The table in order, `rows` rows at a time."""
        for start in range(0, len(self), rows):
            yield self[start : start + rows]

    @staticmethod
    def concat(tables: Sequence[Table]) -> Table:
        """All rows of `tables`, one table after another; columns not in all of them are dropped."""
        if len(tables) == 1:
            return tables[0]
        shared = [name for name in tables[0].columns if all(name in table for table in tables)]
        return Table({name: torch.cat([table[name] for table in tables]) for name in shared})

    @staticmethod
    def from_dataset(dataset: Iterable[Any]) -> Table:
        """Read any torch `Dataset` of `(input, label)` pairs or of dictionaries into memory.

        Inputs may be tensors, arrays or numbers of one common shape.

        Raises:
            DataError: If an item is neither a pair nor a dictionary, or if shapes differ.
        """
        sized: Any = dataset  # a map-style Dataset has no end of its own: its length tells
        items = (sized[i] for i in range(len(sized))) if hasattr(sized, "__len__") else iter(sized)
        rows: list[dict[str, Any]] = []
        for item in items:
            if isinstance(item, Mapping):
                rows.append(dict(item))
            elif isinstance(item, (tuple, list)) and len(item) >= 2:
                rows.append({"x": item[0], "y": item[1]})
            else:
                raise DataError(
                    f"Item {len(rows)} of the dataset is a {type(item).__name__}; "
                    "accepted: (input, label) pairs or dictionaries of tensors."
                )
        if not rows:
            raise DataError("The dataset is empty.")
        try:
            columns = {
                name: torch.stack([torch.as_tensor(row[name]) for row in rows]) for name in rows[0]
            }
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"The items of the dataset do not stack into tensors: {error}"
            ) from error
        return Table(columns)


class Batches:
    """Shuffled minibatches of a table, epoch after epoch.

    Its whole position is `epoch`, `position` and `order`, so that training can stop at any step
    and go on exactly there.

    Args:
        table: What to draw from.
        batch_size: Rows a batch; the last batch of an epoch may be smaller.
        epochs: Passes over the table.
        generator: Draws one permutation an epoch, on the table's device.
    """

    def __init__(
        self, table: Table, batch_size: int, epochs: int, generator: torch.Generator
    ) -> None:
        self.table, self.batch_size, self.epochs = table, batch_size, epochs
        self.generator = generator
        self.epoch, self.position = 0, 0
        self.order: Tensor | None = None

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.table) // self.batch_size)

    def __len__(self) -> int:
        return self.per_epoch * self.epochs

    def __iter__(self) -> Iterator[Batch]:
        rows = len(self.table)
        while self.epoch < self.epochs and rows:
            if self.order is None:
                self.order = torch.randperm(
                    rows, generator=self.generator, device=self.generator.device
                )
            while self.position < rows:
                chosen = self.order[self.position : self.position + self.batch_size]
                self.position += self.batch_size
                yield self.table[chosen]
            self.order, self.position = None, 0
            self.epoch += 1

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "position": self.position, "order": self.order}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]
        self.order = state["order"]
        if self.order is not None:
            self.order = self.order.to(self.generator.device)
