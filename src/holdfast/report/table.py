"""The table of results, and its forms to print and to copy.

Rounded numbers are those of `Cell` in all forms but CSV, which is for programs and holds them
unrounded.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.report.comparison import Arm, Comparison, comparisons
from holdfast.report.quantities import QUANTITIES, Cell, Quantity, heading
from holdfast.report.summary import shortened
from holdfast.store import Result

if TYPE_CHECKING:
    import rich.table

_TERMINAL = ("average_accuracy", "forgetting", "seconds", "peak_memory_bytes", "method_bytes")
_TERMINAL_WIDTH = 80
_NAME = 90
"""Characters of a name shown in a terminal."""
_GAP = 2
"""Spaces between columns in a terminal: one of padding, one where the box has its divider."""


@dataclass(frozen=True)
class Sheet:
    """Columns and rows, before they take a form.

    Attributes:
        quantities: The columns, in order.
        rows: The stream, the arm, and one cell a column.
        several_streams: Whether the stream needs a column of its own.
    """

    quantities: tuple[Quantity, ...]
    rows: tuple[tuple[str, Arm, tuple[Cell, ...]], ...]
    several_streams: bool


def sheet(compared: Sequence[Comparison]) -> Sheet:
    """The table of some comparisons; quantities that no run has are left out."""
    pairs = [(comparison.stream, arm) for comparison in compared for arm in comparison.arms]
    present = tuple(q for q in QUANTITIES if any(q.name in arm.values for _, arm in pairs))
    rows = tuple((s, arm, tuple(_cell(q, arm) for q in present)) for s, arm in pairs)
    return Sheet(present, rows, len(compared) > 1)


def _cell(quantity: Quantity, arm: Arm) -> Cell:
    return Cell(quantity.kind, arm.values.get(quantity.name, (math.nan,) * len(arm.runs)))


def as_csv(results: Sequence[Result]) -> str:
    """All metrics and costs as CSV, unrounded, in the units of the JSON.

    Every quantity has two columns: its mean, and with `_interval` the half-width of its 95 %
    interval, empty for one run. Not-a-number is empty too.
    """
    return csv_of(comparisons(results))


def csv_of(compared: Sequence[Comparison]) -> str:
    """`as_csv` of results that are gathered already."""
    arms = [(comparison.stream, arm) for comparison in compared for arm in comparison.arms]
    names = list(dict.fromkeys(name for _, arm in arms for name in arm.values))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    both = [column for name in names for column in (name, f"{name}_interval")]
    writer.writerow(["stream", "method", "seeds", *both])
    for stream, arm in arms:
        numbers = [v for name in names for v in (arm.mean(name), arm.half(name))]
        shown = [repr(v) if math.isfinite(v) else "" for v in numbers]
        writer.writerow([stream, arm.label, len(arm.runs), *shown])
    return out.getvalue()


def as_markdown(results: Sequence[Result]) -> str:
    """The table in GitHub's Markdown, as shown on the page."""
    return markdown_of(comparisons(results))


def markdown_of(compared: Sequence[Comparison]) -> str:
    """`as_markdown` of results that are gathered already."""
    header, body, names = _grid(sheet(compared), lambda cell: cell.text)
    rule = ["---"] * names + ["---:"] * (len(header) - names)
    lines = [header, rule, *([*map(_in_markdown, row[:names]), *row[names:]] for row in body)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_latex(results: Sequence[Result]) -> str:
    """The table in LaTeX, with the rules of the booktabs package."""
    return latex_of(comparisons(results))


def latex_of(compared: Sequence[Comparison]) -> str:
    """`as_latex` of results that are gathered already."""
    header, body, names = _grid(sheet(compared), lambda cell: cell.latex)
    lines = [[_in_latex(text) for text in header]]
    for row in body:
        lines.append([*map(_in_latex, row[:names]), *row[names:]])
    first, *rest = (" & ".join(line) + r" \\" for line in lines)
    columns = "l" * names + "r" * (len(header) - names)
    rows = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", first, r"\midrule"]
    return "\n".join([*rows, *rest, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _grid(table: Sheet, form: Callable[[Cell], str]) -> tuple[list[str], list[list[str]], int]:
    """Header and rows as text, and how many of the first columns are names."""
    names = ["Stream", "Method"] if table.several_streams else ["Method"]
    header = [*names, "Seeds", *map(heading, table.quantities)]
    body = [
        [*[stream, arm.label][-len(names) :], str(len(arm.runs)), *map(form, cells)]
        for stream, arm, cells in table.rows
    ]
    return header, body, len(names)


def _in_markdown(text: str) -> str:
    escaped = "".join("\\" + c if c in "\\`*_[]|~" else c for c in printable(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "_": r"\_", "%": r"\%", "&": r"\&",
    "#": r"\#", "$": r"\$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "·": r"\textperiodcentered{}",
}  # fmt: skip


def _in_latex(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in printable(text))


def printable(text: str) -> str:
    """The text on one line and without control characters, which could steer a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def text_table(results: Sequence[Result]) -> rich.table.Table:
    """The table for a terminal, at most 80 columns wide.

    Shows average accuracy, forgetting, seconds, peak memory and the bytes stored, as mean ± 95 %
    interval over seeds.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    whole = sheet(comparisons(results))
    chosen = [i for i, q in enumerate(whole.quantities) if q.name in _TERMINAL]
    counts = sorted({len(arm.runs) for _, arm, _ in whole.rows})
    columns = [_stacked(heading(whole.quantities[i])) for i in chosen]
    rows = [[cells[i].text for i in chosen] for _, _, cells in whole.rows]
    if len(counts) > 1:
        columns.insert(0, "n")
        for row, (_, arm, _) in zip(rows, whole.rows, strict=True):
            row.insert(0, str(len(arm.runs)))
    widths = [
        max(len(line) for line in [*column.split("\n"), *(row[i] for row in rows)])
        for i, column in enumerate(columns)
    ]
    room = max(8, _TERMINAL_WIDTH - sum(widths) - _GAP * len(widths))
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, _GAP - 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        caption=_caption(counts),
        caption_justify="left",
    )
    table.add_column("Method", max_width=room, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    stream = None
    for row, (of, arm, _) in zip(rows, whole.rows, strict=True):
        if whole.several_streams and of != stream:
            stream = of
            table.add_section()
            table.add_row(Text(shortened(printable(of), _NAME), style="bold"))
        table.add_row(Text(shortened(printable(arm.label), _NAME)), *row)
    return table


def _stacked(title: str) -> str:
    return title.replace(" ", "\n")


def _caption(counts: list[int]) -> str:
    if counts == [1]:
        return "one seed (n = 1): no interval"
    over = f"{counts[0]} seeds" if len(counts) == 1 else "n seeds (none for n = 1)"
    return f"mean ± 95 % interval over {over}"
