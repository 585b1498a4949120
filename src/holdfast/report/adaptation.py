"""What a reader is shown of an adaptation: the terminal's tables and one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.report.page import asset, breakable
from holdfast.report.summary import shortened
from holdfast.report.table import printable

if TYPE_CHECKING:
    import rich.console

    from holdfast.adaptation import Adapted
    from holdfast.pace import Pace

NONE = "\N{EN DASH}"
LEGEND = """error: % wrong while learning. clean, after: % wrong on the source's test
images, by the source and by the adapted model. moved: change in % of the
weights' norm. avg: % of batches with averaged views. im/s: images a second."""
SHOWN = 40
"""So many domains are listed in the terminal; the page has all."""


@dataclass(frozen=True)
class Outcome:
    """An adaptation by one or several methods.

    Attributes:
        model: Where the source model came from.
        stream: What arrived.
        pace: Batch size, resets and so forth.
        found: One a method.
        labelled: Whether errors could be computed.
        environment: Versions and machine.
    """

    model: str
    stream: str
    pace: Pace
    found: Sequence[Adapted]
    labelled: bool
    environment: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "stream": self.stream,
            "labelled": self.labelled,
            "settings": self.pace.to_dict(),
            "methods": [adapted.to_dict() for adapted in self.found],
            "environment": self.environment,
        }


def percent(value: float | None) -> str:
    """A share in percent, with one digit after the point."""
    return NONE if value is None else f"{100 * value:.1f}"


def header(outcome: Outcome) -> list[str]:
    """Of the table by method, after the method's name."""
    rounds = len(outcome.found[0].rounds())
    errors = ["round 1", f"round {rounds}"] if rounds > 1 else []
    return ["error", *errors, "clean", "after", "moved", "avg", "im/s"]


def row(adapted: Adapted) -> list[str]:
    """The cells of the table by method."""
    rounds = adapted.rounds()
    averaged = adapted.report.get("averaged")
    return [
        percent(adapted.error),
        *((percent(rounds[0]), percent(rounds[-1])) if len(rounds) > 1 else ()),
        percent(adapted.clean_before),
        percent(adapted.clean_after),
        f"{100 * adapted.distance:.2f}",
        NONE if averaged is None else f"{100 * averaged:.0f}",
        f"{adapted.images_per_second:.0f}",
    ]


def domains(outcome: Outcome) -> list[tuple[str, list[float | None]]]:
    """Every domain's error by method, the mean of its rounds, in order of first arrival."""
    rows = []
    for name in dict.fromkeys(passage.name for passage in outcome.found[0].passages):
        cells: list[float | None] = []
        for adapted in outcome.found:
            errors = [p.error for p in adapted.passages if p.name == name]
            known = [error for error in errors if error is not None]
            cells.append(sum(known) / len(known) if len(known) == len(errors) else None)
        rows.append((name, cells))
    return rows


def summary(outcome: Outcome) -> str:
    """What happened, in a sentence or two."""
    images = f"{outcome.found[0].images:,} images"
    if not outcome.labelled:
        return (
            f"{images} came, not all of them with labels: errors on them are not computed. What "
            "the source's test images say of forgetting stands in the table."
        )
    errors = {a.method: a.error for a in outcome.found if a.error is not None}
    best = min(errors, key=lambda method: errors[method])
    said = f"{images} came; {best} answered {percent(errors[best])} % of them wrongly"
    if "source" in errors and best != "source":
        said += f", the unchanged source {percent(errors['source'])} %"
    lost = {
        a.method: a.clean_after - a.clean_before
        for a in outcome.found
        if a.clean_before is not None and a.clean_after is not None
    }
    if not lost:
        return f"{said}."
    worst = max(lost, key=lambda method: lost[method])
    if lost[worst] <= 0:
        return f"{said}. No method lost anything on the source's own test images."
    return (
        f"{said}. Most was lost on the source's own test images by {worst}: "
        f"{100 * lost[worst]:.1f} points."
    )


def print_to(console: rich.console.Console, outcome: Outcome) -> None:
    """The tables by method and by domain, in 80 columns."""
    from rich import box
    from rich.table import Table

    def table(first: str, *columns: str) -> Table:
        made = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        made.add_column(first, overflow="fold", min_width=8)
        for column in columns:
            made.add_column(column, justify="right")
        return made

    by_method = table("method", *header(outcome))
    for adapted in outcome.found:
        by_method.add_row(printable(adapted.method), *row(adapted))
    console.print(by_method, width=min(console.width, 80))
    print(LEGEND)
    found = domains(outcome)
    if outcome.labelled and len(found) <= SHOWN:
        names = [shortened(printable(a.method), 60) for a in outcome.found]
        by_domain = table("error on", *names)
        for name, cells in found:
            by_domain.add_row(printable(name), *map(percent, cells))
        print()
        console.print(by_domain, width=min(console.width, 80))
    print()
    console.print(printable(summary(outcome)), markup=False, highlight=False)


def render(outcome: Outcome) -> str:
    """The page as text; it needs nothing but a browser."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(shortened=shortened, breakable=breakable, percent=percent)
    return environment.from_string(asset("adaptation.html.j2")).render(
        outcome=outcome,
        header=header(outcome),
        rows=[(adapted, row(adapted)) for adapted in outcome.found],
        domains=domains(outcome),
        settings=[(n, v) for n, v in outcome.pace.to_dict().items() if v not in (None, False)],
        summary=summary(outcome),
        css=Markup(asset("page.css")),
    )
