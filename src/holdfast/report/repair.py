"""What a reader is shown of a repair: the terminal's table and one HTML page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.checkpoint import write_atomically
from holdfast.merge.frontier import Point, families
from holdfast.report.diff import MINUS, STYLES, row
from holdfast.report.page import asset, breakable
from holdfast.report.summary import shortened
from holdfast.report.table import printable

if TYPE_CHECKING:
    import rich.console

    from holdfast.repair import Repair

SHOWN = 12
"""Mixtures that the terminal shows; the page and the JSON have all."""
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 380, 62, 20, 16, 50
COLOURS = 8


@dataclass(frozen=True)
class Dot:
    """A point of the plot, in its units."""

    x: float
    y: float
    colour: int
    title: str
    best: bool


@dataclass(frozen=True)
class Plot:
    """The frontier as the page draws it.

    Attributes:
        dots: All mixtures.
        line: Those of the frontier, as a path.
        legend: Name and colour of each rule.
        across: Ticks of what is lost: place and text.
        up: Ticks of what is kept.
        bound: Height of the share of the new that has to be kept.
    """

    dots: list[Dot]
    line: str
    legend: list[tuple[str, int]]
    across: list[tuple[float, str]]
    up: list[tuple[float, str]]
    bound: float


def lost(point: Point) -> str:
    """What is lost of the old, in points of a score or percent of a loss."""
    return f"{100 * point.lost:+.1f}".replace("-", MINUS)


def kept(point: Point) -> str:
    """What is kept of the new, in percent of what was gained."""
    return f"{100 * point.kept:.0f}".replace("-", MINUS)


def ordered(result: Repair) -> list[Point]:
    """Mixtures by what they keep of the new, the most first."""
    return sorted(result.points, key=lambda p: (-p.kept, p.lost))


def summary(result: Repair) -> str:
    """The answer in plain words."""
    best, tuned = result.best, next(p for p in result.points if p.rule == "tuned")
    rule = "the tuned model" if best.rule == "tuned" else best.rule
    found = (
        f"Of {len(result.points)} mixtures {rule} was written: it keeps {kept(best)} % of what "
        f"tuning gained and has lost {lost(best)} % of the old, where the tuned model has lost "
        f"{lost(tuned)} %."
    )
    if not result.dropped:
        return f"{found} On no old ability more is lost than allowed."
    names = ", ".join(one.name for one in result.dropped)
    return f"{found} More than allowed is still lost on {names}."


def print_to(console: rich.console.Console, result: Repair) -> None:
    """The mixtures, and the verdict on the one that was written, in 80 columns."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    def table(*columns: str) -> Table:
        made = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        made.add_column(columns[0], max_width=44, overflow="fold")
        for column in columns[1:]:
            made.add_column(column, justify="right", no_wrap=True)
        return made

    mixtures = table("mixture", "old lost %", "new kept %", "")
    points = ordered(result)
    told = [p for p in points if p.front or p == result.best or p.rule in ("base", "tuned")]
    for p in points:
        if len(told) < SHOWN and p not in told:
            told.append(p)
    for p in (p for p in points if p in told):
        mark = "written" if p == result.best else "frontier" if p.front else ""
        style = "bold green" if p == result.best else ""
        mixtures.add_row(Text(printable(p.rule), style), lost(p), kept(p), Text(mark, style))
    console.print(mixtures)
    if len(told) < len(points):
        console.print(f"  and {len(points) - len(told)} more in the report", highlight=False)
    sets = table("probe set", "base", "tuned", "written", "95 % interval", "verdict")
    before = {found.name: found for found in result.before}
    for found in (*result.sets, *result.gains):
        line, tuned = row(found), row(before[found.name])
        name = Text(shortened(printable(found.name), 40))
        name.append(f"\n{line.measure}", style="dim")
        sets.add_row(
            name, line.base, tuned.tuned, line.tuned, line.interval,
            Text(line.verdict, STYLES.get(found.verdict, "")),
        )  # fmt: skip
    sets.columns[0].max_width = 18
    console.print()
    console.print(sets)
    for note in result.notes:
        console.print(note, markup=False, highlight=False)
    console.print(f"\n{printable(summary(result))}", markup=False, highlight=False)


def plot(result: Repair) -> Plot:
    """The mixtures in the plane of what is lost and what is kept."""
    across = [100 * p.lost for p in result.points]
    up = [100 * p.kept for p in result.points]
    x0, x1 = min(0.0, *across), max(1.0, *across)
    y0, y1 = min(0.0, *up), max(100.0, *up)

    def x(value: float) -> float:
        return LEFT + (value - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    colours = {name: i % COLOURS for i, name in enumerate(families(result.points))}
    dots = [
        Dot(
            x(100 * p.lost), y(100 * p.kept), colours[p.rule.partition("(")[0]],
            f"{p.rule}: {lost(p)} % of the old lost, {kept(p)} % of the new kept",
            p == result.best,
        )
        for p in result.points
    ]  # fmt: skip
    front = sorted((p for p in result.points if p.front), key=lambda p: (p.lost, p.kept))
    line = " ".join(
        f"{'L' if at else 'M'}{x(100 * p.lost):.1f} {y(100 * p.kept):.1f}"
        for at, p in enumerate(front)
    )
    return Plot(
        dots,
        line,
        list(colours.items()),
        [(x(t), f"{t:g}".replace("-", MINUS)) for t in _ticks(x0, x1)],
        [(y(t), f"{t:g}".replace("-", MINUS)) for t in _ticks(y0, y1)],
        y(100 * result.keep_new),
    )


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from low to high, five or so."""
    from math import ceil, floor, log10

    raw = (high - low) / 5
    unit = 10 ** floor(log10(raw))
    step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= raw)
    return [k * step for k in range(ceil(low / step), floor(high / step) + 1)]


def write(result: Repair, path: Path) -> Path:
    """Write the page; a file that is there is replaced, wholly or not at all.

    Raises:
        CheckpointError: If it cannot be written.
    """
    write_atomically(path, render(result).encode())
    return path


def render(result: Repair) -> str:
    """The page that `write` writes, as text."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(shortened=shortened, breakable=breakable, lost=lost, kept=kept)
    before = {found.name: row(found) for found in result.before}
    return environment.from_string(asset("repair.html.j2")).render(
        result=result,
        summary=summary(result),
        rows=[(row(found), before[found.name]) for found in (*result.sets, *result.gains)],
        points=ordered(result),
        plot=plot(result),
        size=(WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM),
        css=Markup(asset("page.css")),
    )
