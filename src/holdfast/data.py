"""Batches and tables: examples as columns of tensors.

A batch is a dictionary of tensors whose first dimension is the example. A `Table` is a batch too
large to be one: columns in memory, indexable by a tensor of row numbers, on any device. Drawing a
batch is one `index_select` per column: there are no worker processes and no Python per example.
A `View` is some rows of a table, and takes no room but that of their numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast.errors import DataError

Batch = dict[str, Tensor]

PADDING = {"labels": -100}
"""What fills up shorter rows of a column of tokens; all others are filled with 0."""

UNLABELLED = -100
"""The label `y` of an example that has none."""

SEQUENCES: tuple[str, ...] = ("input_ids", "attention_mask", "position_ids", "labels")
"""Columns of tokens."""

LENGTHS: tuple[str, ...] = ("length", "label_length")
"""Columns that say how many of a row's tokens are real: of inputs and, where labels have a width
of their own (encoder and decoder), of labels."""


def size(batch: Mapping[str, Tensor]) -> int:
    """The number of examples in a batch."""
    return next(iter(batch.values())).shape[0]  # much cheaper than a tensor's len()


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
    have are dropped; `None` and empty dictionaries add nothing. Rows of tokens are padded to the
    longest.
    """
    parts = [batch, *(other for other in others if other)]
    if len(parts) == 1:
        return batch
    return {
        name: torch.cat(_padded(name, [part[name] for part in parts]))
        if name in SEQUENCES
        else torch.cat([part[name] for part in parts])
        for name in batch
    }


def padded(name: str, rows: Tensor, width: int) -> Tensor:
    """Rows of tokens filled up on the right to `width`, as the column `name` asks."""
    if rows.shape[-1] >= width:
        return rows
    return F.pad(rows, (0, width - rows.shape[-1]), value=PADDING.get(name, 0))


def _padded(name: str, parts: Sequence[Tensor]) -> list[Tensor]:
    width = max(part.shape[-1] for part in parts)
    return [padded(name, part, width) for part in parts]


def trimmed(batch: Batch, widths: Mapping[str, int]) -> Batch:
    """The batch with its columns of tokens cut to the widths given by their length columns.

    Example:
        >>> batch = {"input_ids": torch.tensor([[5, 6, 0, 0]]), "length": torch.tensor([2])}
        >>> trimmed(batch, {"length": 2})["input_ids"].tolist()
        [[5, 6]]
    """
    width = widths["length"]
    of_labels = widths.get("label_length", width)
    return {
        name: column[:, : of_labels if name == "labels" else width] if name in SEQUENCES else column
        for name, column in batch.items()
    }


def shortened(batch: Batch) -> Batch:
    """The batch with its columns of tokens cut to its longest row, if it tells lengths."""
    told = {name: int(batch[name].max()) for name in LENGTHS if name in batch}
    return trimmed(batch, told) if "length" in told else batch


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

    @property
    def whole(self) -> Table:
        """The table whose rows these are: itself, unless it is a view."""
        return self

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
        """The table in order, `rows` rows at a time; rows of tokens cut to the longest."""
        widths = self.widths(torch.arange(len(self), device=self.device), rows)
        for at, start in enumerate(range(0, len(self), rows)):
            batch = self[start : start + rows]
            yield trimmed(batch, widths[at]) if widths else batch

    def widths(self, order: Tensor, rows: int) -> list[dict[str, int]]:
        """The longest row of each batch of `rows` rows drawn in `order`; empty if all are full.

        Looked up for a whole epoch at once, so that no batch waits for the device.
        """
        if "length" not in self:
            return []
        told = [name for name in LENGTHS if name in self]
        longest = [_longest(self[name][order], rows).tolist() for name in told]
        return [dict(zip(told, widths, strict=True)) for widths in zip(*longest, strict=True)]

    @staticmethod
    def concat(tables: Sequence[Table]) -> Table:
        """All rows of `tables`, one table after another; columns not in all of them are dropped."""
        if len(tables) == 1:
            return tables[0]
        views = [table for table in tables if type(table) is View and not table.own]
        if len(views) == len(tables) and len({id(view.whole) for view in views}) == 1:
            return View(views[0].whole, torch.cat([view.rows for view in views]))
        shared = [name for name in tables[0].columns if all(name in table for table in tables)]
        first = {name: tables[0][name] for name in shared}
        return Table(concat(first, *(table.columns for table in tables[1:])))

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


class View(Table):
    """Some rows of another table, copied when they are drawn and not before.

    Many views of one table take no room but that of their row numbers, and of these only while
    they are looked at, if they are told by a function.

    Args:
        table: Whose rows they are.
        rows: Their numbers, on the table's device, in any order and as often as wished; or how to
            find them, asked for once.
        length: How many; needed where `rows` is a function.
        own: Columns beside the table's, or in place of them, one entry for each of `rows`.

    Example:
        >>> table = Table({"x": torch.arange(4) * 10, "y": torch.tensor([0, 1, 0, 1])})
        >>> view = View(table, torch.tensor([3, 3, 0]))
        >>> view["x"].tolist(), view[torch.tensor([2])]["x"].tolist()
        ([30, 30, 0], [0])
        >>> view.with_columns(task=torch.tensor([5, 6, 7])).take(slice(1, 3))["task"].tolist()
        [6, 7]
    """

    def __init__(
        self,
        table: Table,
        rows: Tensor | Callable[[], Tensor],
        length: int | None = None,
        own: Batch | None = None,
    ) -> None:
        self._whole, self._rows, self.own = table, rows, own or {}
        if length is None:
            assert isinstance(rows, Tensor), "a view whose rows are found later is told its length"
            length = len(rows)
        wrong = [name for name, column in self.own.items() if len(column) != length]
        if wrong:
            raise DataError(
                f"A view of {length} rows was given the column {wrong[0]!r} with "
                f"{len(self.own[wrong[0]])} entries."
            )
        self._length = length

    @property
    def rows(self) -> Tensor:
        """The numbers of its rows in the table."""
        if not isinstance(self._rows, Tensor):
            self._rows = self._rows()
        return self._rows

    @property
    def whole(self) -> Table:
        return self._whole

    @property
    def columns(self) -> Batch:  # type: ignore[override]
        """A copy of everything: what draws batches need not ask for it."""
        return self._drawn(self.rows) | self.own

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.own[key] if key in self.own else self._whole[key][self.rows]
        if isinstance(key, slice):
            own = {name: column[key] for name, column in self.own.items()}
            return self._drawn(self.rows[key]) | own
        own = {name: column.index_select(0, key) for name, column in self.own.items()}
        return self._drawn(self.rows.index_select(0, key)) | own

    def __contains__(self, name: str) -> bool:
        return name in self.own or name in self._whole

    def __repr__(self) -> str:
        return f"View({len(self)} rows of {self._whole!r})"

    @property
    def device(self) -> torch.device:
        return self._whole.device

    @property
    def nbytes(self) -> int:
        """Bytes that all columns would hold."""
        rows = len(self._whole)
        shared = [c.nbytes for n, c in self._whole.columns.items() if n not in self.own]
        return sum(shared) // max(rows, 1) * len(self) + sum(c.nbytes for c in self.own.values())

    def take(self, rows: Tensor | slice) -> View:
        own = {name: column[rows] for name, column in self.own.items()}
        return View(self._whole, self.rows[rows], own=own)

    def with_columns(self, **columns: Tensor) -> View:
        return View(self._whole, self._rows, self._length, self.own | columns)

    def to(self, device: torch.device | str) -> Table:
        """Itself where the table is there already; elsewhere a table of its rows alone."""
        return self if torch.device(device) == self.device else super().to(device)

    def _drawn(self, rows: Tensor) -> Batch:
        held = self._whole.columns
        return {n: c.index_select(0, rows) for n, c in held.items() if n not in self.own}


class Batches:
    """Minibatches of a table, epoch after epoch: shuffled, or as its rows stand.

    Its whole position is `epoch`, `position` and `order`, so that training can stop at any step
    and go on exactly there.

    Args:
        table: What to draw from.
        batch_size: Rows a batch; the last batch of an epoch may be smaller.
        epochs: Passes over the table.
        generator: Draws one permutation an epoch, on the table's device.
        rows: From an epoch to the rows that it goes through; None, or an answer of None: all.
        ordered: Whether every epoch goes through the rows as they stand.
    """

    def __init__(
        self,
        table: Table,
        batch_size: int,
        epochs: int,
        generator: torch.Generator,
        rows: Callable[[int], Tensor | None] | None = None,
        ordered: bool = False,
    ) -> None:
        self.table, self.batch_size, self.epochs = table, batch_size, epochs
        self.generator, self.rows, self.ordered = generator, rows, ordered
        self.epoch, self.position = 0, 0
        self.order: Tensor | None = None
        self._widths: list[dict[str, int]] | None = None

    @property
    def per_epoch(self) -> int:
        """Batches in the epoch at hand."""
        return self._batches(self._count(self.epoch))

    def updates(self, accumulate: int = 1) -> int:
        """Updates in all epochs, each of `accumulate` batches but for the last of an epoch."""
        if self.rows is None:
            return -(-self._batches(len(self.table)) // accumulate) * self.epochs
        counts = [self._batches(self._count(epoch)) for epoch in range(self.epochs)]
        return sum(-(-batches // accumulate) for batches in counts)

    def __len__(self) -> int:
        return self.updates()

    def __iter__(self) -> Iterator[Batch]:
        while self.epoch < self.epochs and len(self.table):
            if self.order is None:
                self.order = self._drawn()
            if self._widths is None:
                self._widths = self.table.widths(self.order, self.batch_size)
            rows = self.order.shape[0]
            while self.position < rows:
                chosen = self.order[self.position : self.position + self.batch_size]
                at = self.position // self.batch_size
                self.position += self.batch_size
                batch = self.table[chosen]
                yield trimmed(batch, self._widths[at]) if self._widths else batch
            self.order, self._widths, self.position = None, None, 0
            self.epoch += 1

    def remaining(self) -> int:
        """Batches still to come in this epoch."""
        rows = len(self.order) if self.order is not None else self._count(self.epoch)
        return self._batches(max(0, rows - self.position))

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "position": self.position, "order": self.order}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]
        self.order, self._widths = state["order"], None
        if self.order is not None:
            self.order = self.order.to(self.generator.device)

    def _batches(self, rows: int) -> int:
        return -(-rows // self.batch_size)

    def _chosen(self, epoch: int) -> Tensor | None:
        return None if self.rows is None else self.rows(epoch)

    def _count(self, epoch: int) -> int:
        chosen = self._chosen(epoch)
        return len(self.table) if chosen is None else len(chosen)

    def _drawn(self) -> Tensor:
        """The rows of the epoch at hand, in a new order or as they stand."""
        chosen = self._chosen(self.epoch)
        count = len(self.table) if chosen is None else len(chosen)
        if self.ordered:
            device = self.generator.device
            return torch.arange(count, device=device) if chosen is None else chosen.sort().values
        order = torch.randperm(count, generator=self.generator, device=self.generator.device)
        return order if chosen is None else chosen.to(order.device)[order]


def _longest(lengths: Tensor, rows: int) -> Tensor:
    """The largest of every `rows` lengths in turn."""
    full = -(-len(lengths) // rows) * rows
    return F.pad(lengths, (0, full - len(lengths))).view(-1, rows).max(1).values
