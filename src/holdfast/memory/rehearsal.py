"""Old rows to rehearse, counted by tokens: what is kept of a stream, and whose turn it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Int
from torch import Tensor

from holdfast.data import Batch, Table, shortened, size
from holdfast.errors import DataError, UsageError, at_least
from holdfast.memory.buffer import Buffer
from holdfast.memory.columns import Columns

Order = Literal["original", "random"]
Split = Literal["size", "equal"]

ARRIVAL, CORPUS = "arrival", "corpus"
"""Columns beside an example's own: its place in the stream, and where it came from."""


def tokens(batch: Mapping[str, Tensor]) -> Int[Tensor, " rows"]:
    """The tokens of each row, of input and answer; where nothing is text a row counts one.

    Example:
        >>> tokens({"input_ids": torch.zeros(2, 3).long(), "length": torch.tensor([3, 1])})
        tensor([3, 1])
    """
    if "length" in batch:
        told = batch["length"]
        return told + batch["label_length"] if "label_length" in batch else told
    if "attention_mask" in batch:
        return batch["attention_mask"].sum(1)
    if "input_ids" in batch:
        rows, width = batch["input_ids"].shape
        return torch.full((rows,), width, device=batch["input_ids"].device)
    some = next(iter(batch.values()))
    return torch.ones(len(some), dtype=torch.long, device=some.device)


def alike(old: Table, like: Table) -> Table:
    """Old rows with the columns of `like`, as far as they have them or as they can be made.

    Raises:
        DataError: If several examples share an old row and `like` has no `position_ids`, without
            which they would see one another.
    """
    if "position_ids" in old and "position_ids" not in like:
        raise DataError(
            "The old rows hold several examples each, packed, and the new ones do not: encode both "
            "with packing, or both without."
        )
    columns = dict(old.columns)
    if "input_ids" in old:
        ids = old["input_ids"]
        lengths, place = tokens(columns), torch.arange(ids.shape[1], device=ids.device)
        columns.setdefault("position_ids", place.expand_as(ids).contiguous())
        columns.setdefault("attention_mask", (place < lengths[:, None]).long())
        columns.setdefault("length", lengths)
    return Table({name: column for name, column in columns.items() if name in like})


def up_to(table: Table, capacity: int) -> Table:
    """The first rows that hold at most `capacity` tokens together, and one row at least."""
    rows = int((tokens(table.columns).cumsum(0) <= capacity).sum())
    return table.take(slice(0, max(1, rows)))


class TokenReservoir(Columns):
    """A uniform sample of a stream's rows that holds at most so many tokens.

    Every row that is offered has a random key, and those with the least keys are kept, as many as
    the capacity takes: each row is kept with the same chance, whenever it came. The rows of the
    experience at hand are gathered apart, and join the others when it ends.

    Args:
        capacity: In tokens; at least one row is kept.

    Raises:
        UsageError: If the capacity is not positive.
    """

    remembers = ("room", "arrived")

    def __init__(self, capacity: int) -> None:
        super().__init__()
        at_least(1, capacity=capacity)
        self.capacity, self.room, self.arrived = capacity, 1, 0
        self.gathering = Buffer(1)

    def open(self, mean_tokens: float) -> None:
        """Begin to gather, with room for a capacity of rows of this length."""
        self.room = max(1, round(self.capacity / mean_tokens))
        self.gathering = Buffer(self.room)

    def add(self, batch: Batch, corpus: int, generator: torch.Generator) -> None:
        """Offer rows of the experience at hand."""
        rows = size(batch)
        if not rows:
            return
        some = next(iter(batch.values()))
        place = torch.arange(self.arrived, self.arrived + rows, device=some.device)
        told = {ARRIVAL: place, CORPUS: torch.full_like(place, corpus)}
        self.gathering.add({**batch, **told}, generator)
        self.arrived += rows

    def close(self, generator: torch.Generator) -> None:
        """Let the rows gathered join those kept."""
        new, count = self.gathering.table(), self.gathering.stored
        if new is None:
            return
        # The least keys that so many rows would have drawn, for the uniform sample that is left.
        keys = torch.rand(
            self.gathering.seen, generator=generator, device=generator.device, dtype=torch.float64
        )
        least = keys.sort().values[:count]
        shuffled = torch.randperm(count, generator=generator, device=generator.device)
        parts = [new.with_columns(key=least[shuffled])]
        kept = self.table()
        whole = Table.concat([kept, *parts] if kept is not None else parts)
        by_key = whole.take(whole["key"].argsort())
        chosen = up_to(by_key, self.capacity)
        for name, column in chosen.take(chosen[ARRIVAL].argsort()).columns.items():
            self.keep(name, column)
        self.gathering = Buffer(self.room)

    def table(self) -> Table | None:
        """What is kept, in the order in which it came; None while there is nothing."""
        return Table(self.held) if self.held else None

    def corpora(self) -> list[Table]:
        """What is kept, by where it came from."""
        whole = self.table()
        if whole is None:
            return []
        return [whole.where(whole[CORPUS] == k) for k in whole[CORPUS].unique().tolist()]

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        super().set_extra_state(state)
        self.gathering = Buffer(self.room)


class Rehearsal(Columns):
    """Old corpora and whose turn it is: no row comes again before all of its corpus have come.

    Args:
        order: `"original"`: as the rows lie in their corpus, which is as they were first seen;
            `"random"`: in a new order each time round.
        split: Between several corpora: `"size"`: in proportion to their tokens; `"equal"`: as many
            tokens from each.

    Example:
        >>> old = Rehearsal()
        >>> old.fill([Table({"x": torch.arange(3)})], torch.Generator())
        >>> [old.draw(2, torch.Generator())["x"].tolist() for _ in range(3)]
        [[0, 1], [2, 0], [1, 2]]
    """

    remembers = ("sizes", "at", "drawn", "weights", "mean_tokens")
    turn: Tensor | None

    def __init__(self, order: Order = "original", split: Split = "size") -> None:
        super().__init__()
        for name, given, accepted in (
            ("order", order, get_args(Order)),
            ("split", split, get_args(Split)),
        ):
            if given not in accepted:
                raise UsageError(f"{name} must be one of {', '.join(accepted)}; given: {given!r}.")
        self.order, self.split = order, split
        self.sizes: list[int] = []
        self.at: list[int] = []  # the next row's place in each corpus
        self.drawn: list[int] = []  # rows from each since it was filled
        self.weights: list[float] = []  # share of each in the rows drawn
        self.mean_tokens = 0.0  # of a row drawn
        self.register_buffer("turn", None)

    def __bool__(self) -> bool:
        return bool(self.sizes)

    def fill(self, corpora: Sequence[Table], generator: torch.Generator) -> None:
        """Hold these in place of what was held; each goes on where its rows had come to.

        Args:
            corpora: In the order of the last time, with new ones at the end.
            generator: Draws the random order.
        """
        at = [self._resumed(k, corpus) for k, corpus in enumerate(corpora)]
        for name in self.held:
            self.keep(name, None)
        self.sizes, self.drawn = [len(corpus) for corpus in corpora], [0] * len(corpora)
        self.at, self.weights, self.mean_tokens = at, [], 0.0
        if not corpora:
            return
        placed = [
            corpus
            if ARRIVAL in corpus
            else corpus.with_columns(**{ARRIVAL: torch.arange(len(corpus), device=corpus.device)})
            for corpus in corpora
        ]
        for name, column in Table.concat(placed).columns.items():
            if name != CORPUS:
                self.keep(name, column.clone())
        lengths = [float(tokens(corpus.columns).float().mean()) for corpus in corpora]
        rows = [float(n) for n in self.sizes]
        shares = rows if self.split == "size" else [1 / length for length in lengths]
        self.weights = [share / sum(shares) for share in shares]
        self.mean_tokens = sum(w * length for w, length in zip(self.weights, lengths, strict=True))
        self.turn = torch.arange(sum(self.sizes), device=generator.device)
        if self.order == "random":
            for k in range(len(corpora)):
                self._shuffle(k, generator)

    def draw(self, rows: int, generator: torch.Generator) -> Batch:
        """The next rows, from every corpus its share."""
        assert self.turn is not None
        pieces = []
        for k, count in enumerate(self._counts(rows)):
            pieces += self._next(k, count, generator)
        chosen = torch.cat(pieces)
        held = {name: column for name, column in self.held.items() if name != ARRIVAL}
        drawn = {name: column.index_select(0, chosen) for name, column in held.items()}
        # Elsewhere the longest row could not be had without waiting for the device.
        return shortened(drawn) if chosen.device.type == "cpu" else drawn

    def corpora(self, count: int) -> list[Table]:
        """The first `count` corpora, as they are held."""
        whole = Table(self.held)
        return [
            whole.take(slice(self._start(k), self._start(k) + self.sizes[k])) for k in range(count)
        ]

    def _start(self, k: int) -> int:
        return sum(self.sizes[:k])

    def _resumed(self, k: int, corpus: Table) -> int:
        """Where corpus k goes on when some of its rows have been given up since."""
        if self.order == "random" or k >= len(self.sizes) or ARRIVAL not in corpus:
            return 0
        following = self.held[ARRIVAL][self._start(k) + self.at[k]]
        return int((corpus[ARRIVAL] < following).sum()) % len(corpus)

    def _counts(self, rows: int) -> list[int]:
        """How many of the next rows come from each corpus: whoever is furthest behind its share."""
        counts = [0] * len(self.sizes)
        for _ in range(rows):
            total = sum(self.drawn) + 1
            behind = [w * total - n for w, n in zip(self.weights, self.drawn, strict=True)]
            k = behind.index(max(behind))
            counts[k] += 1
            self.drawn[k] += 1
        return counts

    def _next(self, k: int, count: int, generator: torch.Generator) -> list[Tensor]:
        assert self.turn is not None
        pieces = []
        while count:
            start = self._start(k) + self.at[k]
            taken = min(count, self.sizes[k] - self.at[k])
            pieces.append(self.turn[start : start + taken])
            count -= taken
            self.at[k] += taken
            if self.at[k] == self.sizes[k]:
                self.at[k] = 0
                if self.order == "random":
                    self._shuffle(k, generator)
        return pieces

    def _shuffle(self, k: int, generator: torch.Generator) -> None:
        assert self.turn is not None
        start, rows = self._start(k), self.sizes[k]
        order = torch.randperm(rows, generator=generator, device=generator.device)
        # Not in place: what was drawn from the old order may be a view of it.
        turn = self.turn.clone()
        turn[start : start + rows] = start + order
        self.turn = turn
