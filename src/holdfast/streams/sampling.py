"""Drawing examples by seed so that the classes keep their shares."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from holdfast.data import Table


def stratified(table: Table, limit: int, generator: torch.Generator) -> Table:
    """At most `limit` rows, in their old order, every class in proportion to its size.

    Rows are shared out as Adams's method shares out seats: one rate for all classes, fractions
    rounded up, so that every class has at least one row as long as `limit` allows it.

    Args:
        table: With a column `y`.
        limit: Rows kept; a smaller table is kept whole.
        generator: Draws the rows, on the CPU.

    Example:
        >>> table = Table({"y": torch.tensor([0] * 90 + [1] * 10)})
        >>> drawn = stratified(table, 20, torch.Generator().manual_seed(0))
        >>> drawn["y"].bincount().tolist()
        [18, 2]
    """
    if len(table) <= limit:
        return table
    y = table["y"]
    place = shuffled_place(y, generator)
    # The r-th example of a class of n has seen r/n of its class: taking the rows with the least of
    # it fills all classes evenly, and every class's first comes before any class's second.
    seen = place.double() / y.bincount()[y]
    # Among equals the order is by chance too, or the first classes would always gain.
    shuffle = torch.randperm(len(y), generator=generator)
    chosen = shuffle[seen[shuffle].argsort(stable=True)[:limit]]
    return table.take(chosen.sort().values)


def held_out(table: Table, seed: int) -> tuple[Table, Table]:
    """Four fifths of every class to train on and one fifth to test on, drawn by seed.

    Each class with two or more examples has at least one in either part; a single one trains.

    Args:
        table: With a column `y`.
        seed: Draws the rows.
    """
    y = table["y"]
    place = shuffled_place(y, torch.Generator().manual_seed(seed))
    counts = y.bincount()
    tested = ((counts + 2) // 5).clamp(min=1).where(counts > 1, 0)
    test = place < tested[y]
    return table.where(~test), table.where(test)


def shuffled_place(
    y: Int[Tensor, " examples"], generator: torch.Generator
) -> Int[Tensor, " examples"]:
    """The place of every example in a random order of its own class, from 0."""
    shuffle = torch.randperm(len(y), generator=generator)
    by_class = shuffle[y[shuffle].argsort(stable=True)]
    counts = y.bincount()
    first = counts.cumsum(0) - counts
    place = torch.empty_like(by_class)
    place[by_class] = torch.arange(len(y)) - first[y[by_class]]
    return place
