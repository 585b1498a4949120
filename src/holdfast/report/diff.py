"""What a reader is shown of a diff: the terminal's table and one HTML page.

Both round the numbers of the JSON by the same functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.checkpoint import write_atomically
from holdfast.language.movement import Moved
from holdfast.language.verdict import SetDiff
from holdfast.report.page import asset, breakable
from holdfast.report.summary import shortened
from holdfast.report.table import printable

if TYPE_CHECKING:
    import rich.console

    from holdfast.diff import Diff

NONE, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
VERDICTS = {"drop": "DROP", "loss": "loss, allowed", "gain": "gain", "same": "no change"}
STYLES = {"drop": "bold red", "gain": "green"}
FLIPS = 50
"""Flips of a set that the page shows; the JSON has all."""
MOVERS = 20
"""Tensors that the page shows."""


@dataclass(frozen=True)
class Row:
    """One set as text.

    Attributes:
        found: The set.
        measure: What is compared: the metric or the loss.
        base: Of the base.
        tuned: Of the tuned model.
        change: The difference.
        interval: Its 95 % interval.
        verdict: In a word or two.
    """

    found: SetDiff
    measure: str
    base: str
    tuned: str
    change: str
    interval: str
    verdict: str


def row(found: SetDiff) -> Row:
    """The line of one set: scores in percent, losses in nats a token."""
    judged, percent = found.judged, found.score is not None
    ends = (judged.low, judged.high)
    pair = found.score or found.loss
    assert pair is not None

    def shown(value: float, sign: bool = False) -> str:
        text = f"{100 * value:{'+' if sign else ''}.1f}" if percent else (
            f"{value:{'+' if sign else ''}.3f}"
        )  # fmt: skip
        return text.replace("-", MINUS)

    return Row(
        found,
        f"{found.metric.replace('_', ' ')} %" if percent else "loss",
        shown(pair[0]),
        shown(pair[1]),
        shown(judged.value, True),
        NONE if math.isnan(judged.low) else " … ".join(shown(end, True) for end in ends),
        VERDICTS[found.verdict],
    )


def summary(result: Diff) -> str:
    """The answer in plain words."""
    count = len(result.sets)
    sets = f"{count} probe set{'s' if count != 1 else ''}"
    if not result.dropped:
        losses = [found.name for found in result.sets if found.verdict == "loss"]
        small = f" Smaller losses are beyond chance on {_list(losses)}." if losses else ""
        return (
            f"No drop: on {sets}, nothing was lost that is both beyond chance and more than "
            f"allowed ({limit(result)}).{small}"
        )
    parts = [f"{found.name} ({_fall(found)})" for found in result.dropped]
    gains = [found.name for found in result.sets if found.verdict == "gain"]
    gained = f" It gained on {_list(gains)}." if gains else ""
    return (
        f"The tuned model lost more than allowed ({limit(result)}), beyond chance, on "
        f"{len(parts)} of {sets}: {_list(parts)}.{gained}"
    )


def limit(result: Diff) -> str:
    """What is allowed, in words."""
    allowed = f"{100 * result.max_drop:g}"
    return f"{allowed} points of score, {allowed} % more loss on plain text"


def _fall(found: SetDiff) -> str:
    line = row(found)
    unit = " %" if found.score is not None else " nats a token"
    name = "" if found.score is not None else "loss "
    return f"{name}{line.base} to {line.tuned}{unit}"


def _list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def percent(value: float | None) -> str:
    """A share in percent with three digits that count."""
    return NONE if value is None else f"{100 * value:.3g} %"


def fraction(value: float | None) -> str:
    """A number of at most 1."""
    return NONE if value is None else f"{value:.3f}".replace("-", MINUS)


def pair(values: tuple[float, float] | None, digits: int = 3) -> tuple[str, str]:
    """Base and tuned as numbers."""
    if values is None:
        return NONE, NONE
    first, second = (f"{v:,.{digits}f}" if v < 1e6 else f"{v:.2e}" for v in values)
    return first, second


def movers(result: Diff) -> list[Moved]:
    """Tensors that moved most by their own norm."""
    if result.movement is None:
        return []
    known = [t for t in result.movement.tensors if t.relative]
    return sorted(known, key=lambda t: -(t.relative or 0))[:MOVERS]


def print_to(console: rich.console.Console, result: Diff, flips: int = 5) -> None:
    """The table, the first flips of dropped sets, and where the model changed.

    Args:
        console: Of rich.
        result: What was found.
        flips: Flips shown of each set that lost answers.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    def table(*columns: str, first: int = 24) -> Table:
        made = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        made.add_column(columns[0], max_width=first, overflow="fold")
        for column in columns[1:]:
            made.add_column(column, justify="right", no_wrap=True)
        return made

    shown = table("probe set", "n", "base", "tuned", "change", "95 % interval", "verdict", first=20)
    for line in map(row, result.sets):
        name = Text(shortened(printable(line.found.name), 60))
        name.append(f"\n{line.measure}", style="dim")
        shown.add_row(
            name, str(line.found.examples), line.base, line.tuned, line.change, line.interval,
            Text(line.verdict, STYLES.get(line.found.verdict, "")),
        )  # fmt: skip
    console.print(shown)
    for found in result.sets:
        if not found.lost or not flips:
            continue
        console.print(
            f"\n{printable(found.name)}: {len(found.lost)} right before and wrong after, "
            f"{len(found.gained)} the other way",
            markup=False,
            highlight=False,
        )
        for flip in found.lost[:flips]:
            base, tuned = (_quoted(text) for text in (flip.base, flip.tuned))
            line_ = f"  {_place(flip.where)}: {base} became {tuned}"
            console.print(line_, markup=False, highlight=False)
    if result.movement is not None:
        parts, blocks = result.movement.by("part"), result.movement.by("block")
        moved = [f"{name} {percent(m.relative)}" for name, m in sorted(
            parts.items(), key=lambda item: -(item[1].relative or 0)
        )]  # fmt: skip
        console.print(f"\nWeights moved: {', '.join(moved)}", highlight=False)
        if blocks:
            most = max(blocks.values(), key=lambda m: m.relative or 0)
            console.print(f"  most in {most.name}: {percent(most.relative)}", highlight=False)
    if result.layers:
        known = [layer for layer in result.layers if layer.cosine is not None]
        if known:
            least = min(known, key=lambda layer: layer.cosine or 0)
            console.print(
                f"Representations differ most at {least.name}: mean cosine "
                f"{fraction(least.cosine)}, CKA {fraction(least.cka)}",
                highlight=False,
            )
    for note in result.notes:
        console.print(note, markup=False, highlight=False)
    console.print(f"\n{printable(summary(result))}", markup=False, highlight=False)


def _quoted(text: str) -> str:
    return repr(shortened(" ".join(printable(text).split()), 60))


def _place(where: str) -> str:
    return Path(where).name if where else "an example"


def write(result: Diff, path: Path) -> Path:
    """Write the page; a file that is there is replaced, wholly or not at all.

    Raises:
        CheckpointError: If it cannot be written.
    """
    write_atomically(path, render(result).encode())
    return path


def render(result: Diff) -> str:
    """The page that `write` writes, as text."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        shortened=shortened, breakable=breakable, percent=percent, fraction=fraction, place=_place
    )
    environment.globals.update(pair=pair)
    return environment.from_string(asset("diff.html.j2")).render(
        result=result,
        rows=[row(found) for found in result.sets],
        summary=summary(result),
        limit=limit(result),
        parts=result.movement.by("part") if result.movement else {},
        blocks=result.movement.by("block") if result.movement else {},
        grid=grid(result),
        movers=movers(result),
        flips=FLIPS,
        css=Markup(asset("page.css")),
    )


def grid(result: Diff) -> tuple[list[str], list[tuple[str, list[tuple[str, float]]]]]:
    """Relative movement by block and part: part names, and a row of text and shade a block.

    The shade is the movement by the largest one, from 0 to 1.
    """
    if result.movement is None:
        return [], []
    cells: dict[tuple[str, str], tuple[float, float]] = {}
    for tensor in result.movement.tensors:
        if tensor.block:
            change, norm = cells.get((tensor.block, tensor.part), (0.0, 0.0))
            cells[tensor.block, tensor.part] = change + tensor.change**2, norm + tensor.norm**2
    moved = {at: (c / n) ** 0.5 for at, (c, n) in cells.items() if n}
    most = max(moved.values(), default=0) or 1
    parts = list(dict.fromkeys(part for _, part in cells))
    blocks = list(dict.fromkeys(block for block, _ in cells))
    return parts, [
        (
            block,
            [(percent(moved.get((block, p))), moved.get((block, p), 0) / most) for p in parts],
        )
        for block in blocks
    ]
