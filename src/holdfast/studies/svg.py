"""Line and bar charts as SVG, small enough to commit and readable anywhere.

Colours are Okabe and Ito's, which people with colour-blindness tell apart; text is dark grey on
white, so that a picture looks the same on a page of any colour.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from holdfast.metrics import interval

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
WIDTH, HEIGHT = 760, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 28, 40


@dataclass(frozen=True)
class Series:
    """One line, or one bar a name.

    Attributes:
        label: For the legend.
        x: Ascending.
        y: As many; NaN leaves a hole.
        half: Half-widths of a band or of error bars; None: none.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    half: Sequence[float] | None = None


def over_seeds(
    label: str, x: Sequence[float], points: Iterable[Sequence[float]], factor: float = 1.0
) -> Series:
    """A series of means over seeds, with their 95 % intervals.

    Args:
        label: For the legend.
        x: Ascending.
        points: Of each place on the x axis, one value a seed.
        factor: By which values are multiplied: 100 for percent.

    Example:
        >>> over_seeds("er", [0], [[0.5, 0.6, 0.7]], 100).y
        [60.0]
    """
    found = [interval(values) for values in points]
    return Series(label, x, [factor * mean for mean, _ in found], [factor * h for _, h in found])


@dataclass(frozen=True)
class Panel:
    """One set of axes.

    Attributes:
        title: Above it.
        x_label: Below it.
        y_label: At its side.
        series: What is drawn.
        marks: Where dashed vertical lines stand.
        y_range: Of the axis; None: from the data, with zero.
        names: For bars: names of the places on the x axis. None draws lines.
        level: Where a dashed horizontal line stands.
        points: Whether series are drawn as points, each with its label beside it.
    """

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    marks: Sequence[float] = ()
    y_range: tuple[float, float] | None = None
    names: Sequence[str] | None = None
    level: float | None = None
    points: bool = False


def draw(panels: Sequence[Panel]) -> str:
    """Panels one under another, with one legend for all.

    Args:
        panels: At least one; a label has the same colour in all of them.
    """
    labels = list(dict.fromkeys(series.label for panel in panels for series in panel.series))
    told = [label for label in labels if any(_told(panel, label) for panel in panels)]
    colour = {label: COLOURS[place % len(COLOURS)] for place, label in enumerate(labels)}
    legend, rows = _legend(told, colour)
    height = HEIGHT * len(panels) + 20 * rows + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="sans-serif" font-size="12" fill="#333">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        legend,
    ]
    for place, panel in enumerate(panels):
        parts.append(f'<g transform="translate(0 {20 * rows + 8 + place * HEIGHT})">')
        parts += _axes(panel)
        kind = _bars if panel.names is not None else _points if panel.points else _lines
        parts += kind(panel, colour)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>"])


def _told(panel: Panel, label: str) -> bool:
    """Whether the legend has to tell a label: points have theirs beside them."""
    return not panel.points and any(series.label == label for series in panel.series)


def _legend(labels: Sequence[str], colour: dict[str, str]) -> tuple[str, int]:
    if len(labels) < 2:
        return "", 0
    parts, x, row = [], float(LEFT), 0
    for label in labels:
        room = 28 + 7.5 * len(label)
        if x + room > WIDTH - RIGHT:
            x, row = LEFT, row + 1
        y = 14 + 20 * row
        parts.append(
            f'<rect x="{x:.0f}" y="{y - 9}" width="14" height="9" fill="{colour[label]}"/>'
        )
        parts.append(f'<text x="{x + 18:.0f}" y="{y}">{escape(label)}</text>')
        x += room
    return "".join(parts), row + 1


def _axes(panel: Panel) -> list[str]:
    low, high = _y_range(panel)
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    middle = (LEFT + right) / 2
    parts = [
        f'<text x="{LEFT}" y="{TOP - 9}" font-weight="bold">{escape(panel.title)}</text>',
        f'<text x="{middle:.0f}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{escape(panel.x_label)}</text>",
        f'<text x="14" y="{(TOP + bottom) / 2:.0f}" text-anchor="middle" '
        f'transform="rotate(-90 14 {(TOP + bottom) / 2:.0f})">{escape(panel.y_label)}</text>',
    ]
    for tick in ticks(low, high):
        y = _y(panel, tick)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{right}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    if panel.level is not None:
        y = _y(panel, panel.level)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{right}" stroke="#333" stroke-dasharray="5 4"/>')
    if panel.names is None:
        first, last = _x_range(panel)
        for tick in ticks(first, last):
            x = _x(panel, tick)
            parts.append(
                f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>'
            )
        for mark in panel.marks:
            x = _x(panel, mark)
            parts.append(
                f'<path d="M{x:.1f} {TOP}V{bottom}" stroke="#999" stroke-dasharray="3 3"/>'
            )
    parts.append(f'<path d="M{LEFT} {TOP}V{bottom}H{right}" stroke="#333" fill="none"/>')
    return parts


def _lines(panel: Panel, colour: dict[str, str]) -> list[str]:
    parts = []
    for series in panel.series:
        points = [
            (_x(panel, x), _y(panel, y), place)
            for place, (x, y) in enumerate(zip(series.x, series.y, strict=True))
            if math.isfinite(y)
        ]
        if series.half is not None:
            edge = [
                (x, _y(panel, series.y[place] + side * series.half[place]))
                for side, row in ((1, points), (-1, points[::-1]))
                for x, _, place in row
                if math.isfinite(series.half[place])
            ]
            parts.append(
                f'<path d="M{_path(edge)}Z" fill="{colour[series.label]}" fill-opacity="0.18"/>'
                if edge
                else ""
            )
        parts.append(
            f'<path d="M{_path([(x, y) for x, y, _ in points])}" fill="none" '
            f'stroke="{colour[series.label]}" stroke-width="1.4"/>'
            if points
            else ""
        )
    return parts


def _points(panel: Panel, colour: dict[str, str]) -> list[str]:
    parts, centres, labels = [], [], []
    for series in panel.series:
        for place, (at, value) in enumerate(zip(series.x, series.y, strict=True)):
            if not (math.isfinite(at) and math.isfinite(value)):
                continue
            x, y = _x(panel, at), _y(panel, value)
            half = series.half[place] if series.half is not None else math.nan
            if math.isfinite(half):
                ends = _y(panel, value + half), _y(panel, value - half)
                parts.append(
                    f'<path d="M{x:.1f} {ends[0]:.1f}V{ends[1]:.1f}" '
                    f'stroke="{colour[series.label]}" stroke-opacity="0.5"/>'
                )
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{colour[series.label]}"/>'
            )
            centres.append((x, y))
            labels.append(series.label)
    for (x, y), (left, middle), label in zip(
        centres, _beside(centres, labels), labels, strict=True
    ):
        end = left + LETTER * len(label)
        near, anchor = (end, "end") if left < x else (left, "start")
        if middle != y or abs(near - x) > 8:
            parts.append(f'<path d="M{x:.1f} {y:.1f}L{near:.1f} {middle:.1f}" stroke="#aaa"/>')
        parts.append(
            f'<text x="{near:.1f}" y="{middle + 4:.1f}" text-anchor="{anchor}" font-size="11">'
            f"{escape(label)}</text>"
        )
    return parts


LETTER, LINE = 5.8, 12.0
"""Width of a letter and height of a line of a point's label."""


def _beside(
    centres: Sequence[tuple[float, float]], labels: Sequence[str]
) -> list[tuple[float, float]]:
    """Left end and middle of each label: as near to its point as nothing else is in its way.

    Labels lie between their points and the middle of the panel.
    """
    moves = sorted(
        ((across, down) for across in range(0, 200, 10) for down in range(-HEIGHT, HEIGHT, 5)),
        key=lambda move: math.hypot(*move),
    )
    taken = [(x - 5, x + 5, y - 5, y + 5) for x, y in centres]
    found = {}
    for place in sorted(range(len(centres)), key=lambda place: centres[place][::-1]):
        (x, y), width = centres[place], LETTER * len(labels[place])
        far = x > (LEFT + WIDTH - RIGHT) / 2
        others = [box for at, box in enumerate(taken) if at != place]
        for across, down in [*moves, (0, 0)]:
            left, middle = (x - 8 - across - width if far else x + 8 + across), y + down
            free = TOP <= middle <= HEIGHT - BOTTOM and not any(
                left < stop
                and start < left + width
                and middle - LINE / 2 < bottom
                and top < middle + LINE / 2
                for start, stop, top, bottom in others
            )
            if free:
                break
        taken.append((left, left + width, middle - LINE / 2, middle + LINE / 2))
        found[place] = (left, middle)
    return [found[place] for place in range(len(centres))]


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _bars(panel: Panel, colour: dict[str, str]) -> list[str]:
    names = panel.names or ()
    slot = (WIDTH - LEFT - RIGHT) / len(names)
    width = slot * 0.8 / len(panel.series)
    parts = []
    for place, name in enumerate(names):
        middle = LEFT + (place + 0.5) * slot
        parts.append(
            f'<text x="{middle:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle" '
            f'font-size="{11 if len(names) < 8 else 9}">{escape(name)}</text>'
        )
        for number, series in enumerate(panel.series):
            value = series.y[place]
            if not math.isfinite(value):
                continue
            x = middle + (number - len(panel.series) / 2) * width
            top, ground = sorted((_y(panel, value), _y(panel, 0.0)))
            parts.append(
                f'<rect x="{x:.1f}" y="{top:.1f}" width="{0.9 * width:.1f}" '
                f'height="{ground - top:.1f}" fill="{colour[series.label]}"/>'
            )
            half = series.half[place] if series.half is not None else math.nan
            if math.isfinite(half):
                ends = _y(panel, value + half), _y(panel, value - half)
                parts.append(
                    f'<path d="M{x + 0.45 * width:.1f} {ends[0]:.1f}V{ends[1]:.1f}" stroke="#333"/>'
                )
    return parts


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`, four to eight of them.

    Example:
        >>> ticks(0, 100)
        [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
    """
    if not high > low:
        return [low]
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 10) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _y_range(panel: Panel) -> tuple[float, float]:
    if panel.y_range is not None:
        return panel.y_range
    reach = [0.0, *([] if panel.level is None else [panel.level])]
    for series in panel.series:
        halves = series.half if series.half is not None else [0.0] * len(series.y)
        for y, half in zip(series.y, halves, strict=True):
            if math.isfinite(y):
                half = half if math.isfinite(half) else 0.0
                reach += [y - half, y + half]
    low, high = min(reach), max(reach)
    return low, high if high > low else low + 1


def _x_range(panel: Panel) -> tuple[float, float]:
    values = [x for series in panel.series for x in series.x]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = 0.05 * ((high - low) or 1.0) if panel.points else 0.0
    return low - room, high + room


def _x(panel: Panel, value: float) -> float:
    first, last = _x_range(panel)
    return LEFT + (value - first) / ((last - first) or 1) * (WIDTH - LEFT - RIGHT)


def _y(panel: Panel, value: float) -> float:
    low, high = _y_range(panel)
    inside = min(max(value, low), high)
    return HEIGHT - BOTTOM - (inside - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
