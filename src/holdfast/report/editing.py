"""The page of an editing: what is told differently now, and what else changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from holdfast.edit_config import PROTOCOLS
from holdfast.language.editing import DEFINITIONS
from holdfast.report.page import asset

if TYPE_CHECKING:
    from holdfast.edit import Outcome

COLUMNS = ("reliability", "generalization", "locality", "score", "exact", "probability", "fluency")
SHORT = {
    "reliability": "reliab.",
    "generalization": "general.",
    "locality": "locality",
    "score": "mean",
    "exact": "exact",
    "probability": "prob.",
    "fluency": "fluency",
}
NONE = "\N{EN DASH}"
SHOWN = 200
"""Edits that the page shows; the JSON has all."""


def rows(outcome: Outcome) -> list[list[str]]:
    """Before any edit, and after each number of them: shares in percent, fluency in bits."""
    lines = [["before", *cells(outcome.before.to_dict())]]
    return lines + [[f"{point['edits']}", *cells(point)] for point in outcome.points]


def cells(measured: Mapping[str, Any]) -> list[str]:
    """The numbers of one measurement as text."""
    return [number(measured[name], name) for name in COLUMNS]


def number(value: float | None, name: str) -> str:
    """One number as text."""
    if value is None or value != value:
        return NONE
    return f"{value:.2f}" if name == "fluency" else f"{100 * value:.1f}"


def protocol(outcome: Outcome) -> str:
    """How the edits followed one another, in words."""
    name = outcome.config.protocol
    return f"{name}: {PROTOCOLS[name]}"


def definitions(outcome: Outcome) -> list[str]:
    """What every column is, a line each."""
    lines = [f"{SHORT[name]}: {DEFINITIONS[name]}" for name in COLUMNS]
    return [*lines, "All edits so far are measured after the number of edits in the first column."]


def cost(outcome: Outcome) -> str:
    """Time and memory of an edit."""
    seconds = outcome.seconds
    speed = f"{1 / seconds:.2f} edits a second" if seconds else "no time"
    kept = outcome.points[-1]["bytes"]
    return f"{speed}; {kept:,} bytes kept by the editor, {outcome.growth:,.0f} more for each edit"


def summary(outcome: Outcome) -> str:
    """What happened, in a sentence or two."""
    last = outcome.points[-1]
    count = len(outcome.requests)
    said = (
        f"After {count} edit{'s' if count != 1 else ''} the model foretells "
        f"{number(last['reliability'], '')} % of the targets' tokens "
        f"({number(outcome.before.reliability, '')} % before)"
    )
    if last["generalization"] is not None:
        said += f", {number(last['generalization'], '')} % when asked in other words"
    if last["locality"] is None:
        return f"{said}. No locality prompt was given, so nothing is known of what else changed."
    return f"{said}; {number(last['locality'], '')} % of what it said to unrelated prompts is left."


def render(outcome: Outcome) -> str:
    """The page as text; it needs nothing but a browser."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    state = outcome.config.to_dict()
    each = zip(outcome.requests, outcome.points[-1]["each"], strict=True)
    return environment.from_string(asset("editing.html.j2")).render(
        css=Markup(asset("page.css")),
        config=outcome.config,
        summary=summary(outcome),
        protocol=protocol(outcome),
        columns=COLUMNS,
        lines=rows(outcome),
        definitions=[(name, DEFINITIONS[name]) for name in COLUMNS],
        cost=cost(outcome),
        each=[
            (request, [number(found[name], name) for name in COLUMNS[:3]])
            for request, found in list(each)[:SHOWN]
        ],
        count=len(outcome.requests),
        settings=[(name, value) for name, value in state.items() if value not in (None, [], False)],
        environment=outcome.environment,
    )
