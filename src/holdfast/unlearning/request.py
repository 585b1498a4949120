"""A request to forget: a stream of one experience whose training examples are to go.

Its training table is the forget set; its set named `retain` is what stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from holdfast.data import Table
from holdfast.errors import DataError
from holdfast.memory.rehearsal import alike
from holdfast.stream import Experience, Stream
from holdfast.streams.source import Scale

if TYPE_CHECKING:
    from holdfast.learner import Learner

FORGET = "forget"
"""The column that tells rows to forget from rows to keep, where a method trains on both."""


def request(
    table: Table,
    forget: Int[Tensor, " rows"],
    test: Table,
    *,
    classes: int,
    scale: Scale = ((0.0,), (1.0,)),
    class_names: tuple[str, ...] = (),
    retain: Int[Tensor, " kept"] | None = None,
    name: str = "forget",
) -> Stream:
    """The request to forget some rows of what a classifier was trained on.

    Args:
        table: Columns `x` and `y`: all training examples.
        forget: Numbers of the rows to forget.
        test: Held-out examples.
        classes: Number of classes.
        scale: As in `Stream`.
        class_names: Likewise.
        retain: Numbers of the rows that stay; None: all others.
        name: Of the stream.

    Raises:
        DataError: If either set is empty, if a row is in both, twice in one, or not in the table.

    Example:
        >>> data = Table({"x": torch.arange(6.0).view(6, 1), "y": torch.arange(6) % 2})
        >>> stream = request(data, torch.tensor([4, 1]), data, classes=2)
        >>> stream[0].train["x"].flatten().tolist(), len(stream[0].sets["retain"])
        ([4.0, 1.0], 4)
    """
    rows = len(table)
    gone = _marked(forget, rows, "forget")
    if retain is None:
        retain = (~gone).nonzero().flatten()
    kept = _marked(retain, rows, "retain")
    both = int((gone & kept).sum())
    if both:
        first = int((gone & kept).nonzero()[0])
        raise DataError(
            f"{both} examples are both to be forgotten and to be retained (first row {first}): the "
            "two sets must have none in common."
        )
    return Stream(
        name=name,
        experiences=[
            Experience(
                index=0,
                train=table.take(forget.to(table.device)),
                test=test,
                classes=tuple(range(classes)),
                name=name,
                sets={"retain": table.take(retain.to(table.device))},
            )
        ],
        scenario="domain",
        classes=classes,
        shape=tuple(table["x"].shape[1:]),
        scale=scale,
        class_names=class_names,
    )


def retained(learner: Learner) -> Table:
    """The retain set of the experience at hand, with the columns of its training table."""
    train = learner.experience.train
    return alike(learner.experience.sets["retain"], train).to(train.device)


def both(learner: Learner, table: Table) -> Table:
    """Rows to forget and rows to keep in one table, told apart by the column `forget`."""
    kept = retained(learner)
    gone = torch.ones(len(table), dtype=torch.bool, device=table.device)
    stays = torch.zeros(len(kept), dtype=torch.bool, device=kept.device)
    return Table.concat([table.with_columns(forget=gone), kept.with_columns(forget=stays)])


def _marked(rows: Tensor, count: int, what: str) -> Tensor:
    """One truth value a row of the table."""
    if not len(rows):
        raise DataError(f"The {what} set is empty.")
    low, high = int(rows.min()), int(rows.max())
    if low < 0 or high >= count:
        raise DataError(
            f"The rows of the {what} set lie in {low}..{high}; accepted: 0..{count - 1}."
        )
    marked = torch.zeros(count, dtype=torch.bool)
    marked[rows.cpu()] = True
    if int(marked.sum()) < len(rows):
        raise DataError(f"The {what} set names some rows twice.")
    return marked
