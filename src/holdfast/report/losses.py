"""The losses of language: of each domain or task, before any training and at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.report.comparison import Arm, Comparison, comparisons
from holdfast.report.quantities import Cell
from holdfast.store import Result

if TYPE_CHECKING:
    import rich.table

BEFORE = "before any training"
_MOST = 5
"""So many test sets have columns of their own in a terminal."""


@dataclass(frozen=True)
class Loss:
    """One test set's loss of a token in nats over seeds, and the perplexity."""

    loss: Cell
    perplexity: Cell


@dataclass(frozen=True)
class Losses:
    """A table of losses.

    Attributes:
        names: Of the test sets.
        rows: A label, and one loss a test set: before any training, then after each method.
    """

    names: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Loss, ...]], ...]


def losses_of(comparison: Comparison) -> Losses | None:
    """The losses of a comparison; None where none was recorded.

    All methods start from one model, so what was before them is the first method's.
    """
    arms = [arm for arm in comparison.arms if all("loss" in r.record.measures for r in arm.runs)]
    if not arms:
        return None
    names = tuple(arms[0].runs[0].record.names)
    rows = [(BEFORE, _row(arms[0], 0)), *((arm.label, _row(arm, -1)) for arm in arms)]
    return Losses(names, tuple(rows))


def _row(arm: Arm, after: int) -> tuple[Loss, ...]:
    columns = zip(*(run.record.measures["loss"][after] for run in arm.runs), strict=True)
    return tuple(_loss(values) for values in columns)


def _loss(values: Sequence[float]) -> Loss:
    return Loss(
        Cell("nats", tuple(values)), Cell("number", tuple(math.exp(min(v, 700)) for v in values))
    )


def loss_table(results: Sequence[Result]) -> rich.table.Table | None:
    """The losses for a terminal, at most 80 columns wide; None where none was recorded.

    Of many test sets the first four are shown, and the last.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    found = [(c, losses) for c in comparisons(results) if (losses := losses_of(c)) is not None]
    if not found:
        return None
    widest = max(len(losses.names) for _, losses in found)
    shown = [*range(_MOST - 1), widest - 1] if widest > _MOST else list(range(widest))
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        caption="mean loss of a token in nats; lower is better",
        caption_justify="left",
    )
    several = len(found) > 1
    table.add_column("Loss on", overflow="fold")
    for i in shown:
        names = {losses.names[i] for _, losses in found if i < len(losses.names)}
        table.add_column(Text(names.pop() if len(names) == 1 else f"set {i + 1}"), justify="right")
    for comparison, losses in found:
        if several:
            table.add_section()
            table.add_row(Text(comparison.stream, style="bold"))
        for label, cells in losses.rows:
            table.add_row(
                Text(label), *(cells[i].loss.text if i < len(cells) else "" for i in shown)
            )
    return table
