"""The virtual stream generator: from data and a matrix of counts to a stream.

Nothing is copied: experiences are made when they are asked for, each a view of one table. What is
drawn for an experience depends on the seed and its place alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from holdfast.data import Batch, Table, View
from holdfast.errors import DataError, UsageError
from holdfast.stream import Experience, Experiences, Stream, TestSet, spread
from holdfast.streams.labels import partly_labelled
from holdfast.streams.occurrence import Counts
from holdfast.streams.source import Source

Draws = Literal["deck", "fresh"]
"""Go through a group's examples in a random order, reshuffled when all have come; or draw anew."""

NAMED = 4
"""Classes or tasks named in the name of an experience; more are counted."""


@dataclass(frozen=True)
class Pool:
    """A table's rows by group.

    Attributes:
        table: The rows.
        order: Row numbers, group after group.
        starts: Where each group begins in `order`.
        sizes: Rows of each group.
    """

    table: Table
    order: Int[Tensor, " rows"]
    starts: Int[Tensor, " groups"]
    sizes: Int[Tensor, " groups"]

    @staticmethod
    def by(table: Table, group: Int[Tensor, " rows"], groups: int) -> Pool:
        """From the group of every row."""
        sizes = group.bincount(minlength=groups)
        return Pool(table, group.argsort(stable=True), sizes.cumsum(0) - sizes, sizes)

    def members(self, group: int) -> Int[Tensor, " members"]:
        start = int(self.starts[group])
        return self.order[start : start + int(self.sizes[group])]


class Changed(View):
    """A view whose inputs are changed when they are first looked at, and kept while it is.

    Args:
        view: The rows as they are.
        change: From all inputs to what they become; everything else stays.
    """

    def __init__(self, view: View, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__(view.whole, lambda: view.rows, len(view), view.own)
        self.change = change
        self._made: Table | None = None

    @property
    def made(self) -> Table:
        """The changed rows, as a table of their own."""
        if self._made is None:
            as_they_are = super().columns
            self._made = Table({**as_they_are, "x": self.change(as_they_are["x"])})
        return self._made

    @property
    def columns(self) -> Batch:  # type: ignore[override]
        return self.made.columns

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if key == "y" else self.made[key]

    def take(self, rows: Tensor | slice) -> Table:  # type: ignore[override]
        return self.made.take(rows)

    def with_columns(self, **columns: Tensor) -> Table:  # type: ignore[override]
        return self.made.with_columns(**columns)

    def to(self, device: torch.device | str) -> Table:
        return self.made.to(device)


def generator_of(*numbers: int) -> torch.Generator:
    """A generator of chance of its own for every sequence of whole numbers from 0."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)


def drawn(
    pool: Pool,
    counts: Counts,
    starts: Counts,
    index: int,
    seed: int,
    draws: Draws,
    stored: int | None = None,
) -> Int[Tensor, " rows"]:
    """The rows of an experience, in a random order.

    Args:
        pool: What is drawn from.
        counts: Rows of each group in each experience.
        starts: Rows of each group before each experience.
        index: Of the experience.
        seed: Of everything that is drawn.
        draws: `"deck"` or `"fresh"`.
        stored: Of a group that was there before, rows that are drawn from: of the first ones that
            it brought, as often as it takes; None: all of the group's.
    """
    parts = []
    shuffle = generator_of(seed, 0, index)
    for group in counts[index].nonzero().flatten().tolist():
        members, count = pool.members(group), int(counts[index, group])
        if stored is not None:
            deck = torch.randperm(len(members), generator=generator_of(seed, 2, group))
            if not int(starts[index, group]):
                parts.append(members[deck[:count]])
                continue
            kept = members[deck[:stored]]
            turns = [torch.randperm(len(kept), generator=shuffle) for _ in range(0, count, stored)]
            parts.append(kept[torch.cat(turns)[:count]])
            continue
        if draws == "fresh":
            whole = count == len(members)
            place = slice(None) if whole else torch.randperm(len(members), generator=shuffle)
            parts.append(members[place][:count])
            continue
        start = int(starts[index, group])
        while count:
            turn, at = divmod(start, len(members))
            deck = torch.randperm(len(members), generator=generator_of(seed, 1, group, turn))
            parts.append(members[deck[at : at + count]])
            start, count = start + len(parts[-1]), count - len(parts[-1])
    rows = torch.cat(parts)
    return rows[torch.randperm(len(rows), generator=shuffle)]


def by_class(
    source: Source,
    counts: Counts,
    name: str,
    seed: int,
    *,
    draws: Draws = "deck",
    evaluations: int | None = None,
    labels: float = 1.0,
    ordered: bool = False,
    change: Callable[[int, Tensor], Tensor] | None = None,
) -> Stream:
    """A stream in which class c has `counts[i, c]` examples in experience i.

    Labels are renumbered by arrival, as a growing head's rows come; classes that never come are
    last. There is one test set a class, so that everything is scored whenever anything is, also
    what has not come yet.

    Args:
        source: The data.
        counts: At least one example an experience, at most all of a class.
        name: Of the stream.
        seed: Draws the examples.
        draws: See `Draws`.
        evaluations: How often the test sets are scored, evenly spread; None: after each experience.
        labels: Share of each class's training examples that have a label.
        ordered: Whether examples come in one random order, by seed, in every epoch.
        change: From the place of an experience and its inputs to what they become.

    Raises:
        UsageError: If a number is out of range.
    """
    counts = checked(counts, source.train["y"].bincount(minlength=source.classes), draws, name)
    since = first_experience(counts)
    order = since.argsort(stable=True)
    renumbered = order.argsort()
    counts, since = counts[:, order], since[order]
    table, test = (
        part.with_columns(y=renumbered[part["y"]]) for part in (source.train, source.test)
    )
    names = tuple(source.class_names[int(c)] for c in order)
    pools = [Pool.by(part, part["y"], source.classes) for part in (table, test)]
    if labels != 1:
        shown = partly_labelled(table, labels, seed)
        pools[0] = replace(pools[0], table=shown)
    return _stream(
        name=name,
        pools=(pools[0], pools[1]),
        counts=counts,
        since=since,
        names=names,
        classes=[(c,) for c in range(source.classes)],
        seed=seed,
        draws=draws,
        evaluations=evaluations,
        ordered=ordered,
        change=change,
        common=Stream(
            name=name,
            experiences=(),
            scenario="class",
            classes=source.classes,
            shape=source.shape,
            scale=source.scale,
            white=source.white,
            class_names=names,
            semi_labelled=labels != 1,
        ),
    )


def by_task(
    tasks: Stream,
    counts: Counts,
    name: str,
    seed: int,
    *,
    draws: Draws = "fresh",
    stored: int | None = None,
    evaluations: int | None = None,
    ordered: bool = False,
) -> Stream:
    """A stream in which task j has `counts[i, j]` examples in experience i.

    There is one test set a task, which counts as met from the first experience that brings it.

    Args:
        tasks: A stream whose experiences are the tasks.
        counts: At least one example an experience, at most all of a task.
        name: Of the stream.
        seed: Draws the examples.
        draws: See `Draws`.
        stored: Examples of a task that are drawn from once it was there, of those that came first;
            None: all.
        evaluations: How often the test sets are scored, evenly spread; None: after each experience.
        ordered: Whether examples come in one random order, by seed, in every epoch.

    Raises:
        UsageError: If a number is out of range.
    """
    trains, tests = [e.train for e in tasks], [e.test for e in tasks]
    counts = checked(counts, torch.tensor([len(table) for table in trains]), draws, name)
    pools = []
    for tables in (trains, tests):
        group = torch.arange(len(tables)).repeat_interleave(torch.tensor([len(t) for t in tables]))
        pools.append(Pool.by(Table.concat(tables), group, len(tables)))
    return _stream(
        name=name,
        pools=(pools[0], pools[1]),
        counts=counts,
        since=first_experience(counts),
        names=[e.name for e in tasks],
        classes=[e.classes for e in tasks],
        seed=seed,
        draws=draws,
        stored=stored,
        evaluations=evaluations,
        ordered=ordered,
        change=None,
        common=replace(tasks, name=name),
    )


def checked(counts: Counts, sizes: Int[Tensor, " groups"], draws: Draws, name: str) -> Counts:
    """The counts, if they can be drawn.

    Raises:
        UsageError: If they are not a matrix of whole numbers from 0 with a column a group, if an
            experience has no example, if one asks for more than there are, or if `draws` is
            unknown.
    """
    if draws not in get_args(Draws):
        raise UsageError(f"draws must be {' or '.join(get_args(Draws))}; given: {draws!r}.")
    if counts.dim() != 2 or counts.shape[1] != len(sizes) or counts.is_floating_point():
        raise UsageError(
            f"The counts of {name!r} must be whole numbers, a row an experience and {len(sizes)} "
            f"columns; given: {counts.dtype} of shape {tuple(counts.shape)}."
        )
    if not len(counts) or bool((counts < 0).any()) or not bool(counts.any(1).all()):
        raise UsageError(f"Every experience of {name!r} needs an example, and none less than 0.")
    over = (counts > sizes).nonzero()
    if len(over):
        i, group = over[0].tolist()
        raise UsageError(
            f"Experience {i} of {name!r} asks for {int(counts[i, group])} examples of group "
            f"{group}, which has {int(sizes[group])}."
        )
    return counts.long()


def first_experience(counts: Counts) -> Int[Tensor, " groups"]:
    """The first experience that brings each group; the number of experiences, if none does."""
    here = counts > 0
    return torch.where(here.any(0), here.int().argmax(0), len(counts))


def _stream(
    name: str,
    pools: tuple[Pool, Pool],
    counts: Counts,
    since: Int[Tensor, " groups"],
    names: Sequence[str],
    classes: Sequence[tuple[int, ...]],
    seed: int,
    draws: Draws,
    evaluations: int | None,
    ordered: bool,
    change: Callable[[int, Tensor], Tensor] | None,
    common: Stream,
    stored: int | None = None,
) -> Stream:
    pool, held_out = pools
    lacking = (held_out.sizes == 0).nonzero().flatten()
    if len(lacking):
        raise DataError(f"There is no test example of {names[int(lacking[0])]!r} in {name!r}.")
    starts, sizes = counts.cumsum(0) - counts, counts.sum(1).tolist()
    here = counts > 0
    places = here.nonzero()[:, 1].split(here.sum(1).tolist())
    present, tests = [p.tolist() for p in places], held_out.sizes.tolist()
    tested = [View(held_out.table, held_out.members(group)) for group in range(len(names))]

    def make(index: int) -> Experience:
        groups = present[index]
        train = View(
            pool.table,
            lambda: drawn(pool, counts, starts, index, seed, draws, stored),
            sizes[index],
        )
        if change is not None:
            train = Changed(train, lambda x: change(index, x))
        return Experience(
            index=index,
            train=train,
            test=View(
                held_out.table,
                lambda: torch.cat([held_out.members(group) for group in groups]),
                sum(tests[group] for group in groups),
            ),
            classes=tuple(sorted({c for group in groups for c in classes[group]})),
            name=", ".join(names[g] for g in groups)
            if len(groups) <= NAMED
            else f"{len(groups)} of {len(names)}",
            ordered=ordered,
        )

    return replace(
        common,
        experiences=Experiences(len(counts), make),
        tests=tuple(
            TestSet(label, table, int(first))
            for label, table, first in zip(names, tested, since.tolist(), strict=True)
        ),
        evaluations=spread(len(counts), evaluations),
    )
