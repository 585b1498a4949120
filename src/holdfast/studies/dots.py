"""A ranking as SVG: one line a name, with a dot for its value and a whisker for its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from holdfast.studies.svg import BOTTOM, COLOURS, RIGHT, WIDTH, ticks

LINE = 18
"""Height of a name's line."""
LETTER = 6.7
"""Room for a letter of a name."""


class Dot(NamedTuple):
    """One line.

    Attributes:
        name: At its left.
        value: Where the dot is.
        half: Half-width of the whisker; NaN: none.
        kind: Dots of a kind have one colour, told above them.
    """

    name: str
    value: float
    half: float
    kind: str


def dots(title: str, label: str, rows: Sequence[Dot]) -> str:
    """Lines in the order given, on an axis from 0.

    Args:
        title: Above it.
        label: Of the axis.
        rows: At least one.

    Example:
        >>> dots("Two", "score", [Dot("a", 2.0, 0.5, ""), Dot("b", 1.0, float("nan"), "")]).count(
        ...     "<circle"
        ... )
        2
    """
    kinds = list(dict.fromkeys(row.kind for row in rows))
    colour = {kind: COLOURS[place % len(COLOURS)] for place, kind in enumerate(kinds)}
    left = 16 + LETTER * max(len(row.name) for row in rows)
    right, top = WIDTH - RIGHT, 30 + (20 if len(kinds) > 1 else 0)
    bottom = top + LINE * len(rows)
    high = max(row.value + (row.half if math.isfinite(row.half) else 0.0) for row in rows)
    high = high if high > 0 else 1.0

    def across(value: float) -> float:
        return left + min(max(value, 0.0), high) / high * (right - left)

    height = bottom + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="sans-serif" font-size="12" fill="#333">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="16" y="18" font-weight="bold">{escape(title)}</text>',
    ]
    x = 16.0
    for kind in kinds if len(kinds) > 1 else ():
        parts.append(f'<circle cx="{x + 5:.0f}" cy="34" r="4" fill="{colour[kind]}"/>')
        parts.append(f'<text x="{x + 14:.0f}" y="38">{escape(kind)}</text>')
        x += 34 + LETTER * len(kind)
    for tick in ticks(0.0, high):
        place = across(tick)
        parts.append(f'<path d="M{place:.1f} {top}V{bottom}" stroke="#ddd"/>')
        parts.append(
            f'<text x="{place:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>'
        )
    parts.append(
        f'<text x="{(left + right) / 2:.0f}" y="{height - 6}" text-anchor="middle">'
        f"{escape(label)}</text>"
    )
    for number, row in enumerate(rows):
        y = top + LINE * (number + 0.5)
        parts.append(
            f'<text x="{left - 8:.0f}" y="{y + 4:.1f}" text-anchor="end">{escape(row.name)}</text>'
        )
        if math.isfinite(row.half):
            ends = across(row.value - row.half), across(row.value + row.half)
            parts.append(f'<path d="M{ends[0]:.1f} {y:.1f}H{ends[1]:.1f}" stroke="#333"/>')
        parts.append(
            f'<circle cx="{across(row.value):.1f}" cy="{y:.1f}" r="4" fill="{colour[row.kind]}"/>'
        )
    return "\n".join([*parts, "</svg>"])
