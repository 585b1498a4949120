"""The page of an unlearning of classifiers: every method beside retraining, set by set."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.forgetting import Forgotten, Outcome, Way

HEADINGS = ("UA", "RA", "TA", "MIA", "avg. gap", "seconds")

MEANINGS = (
    ("UA", "1 - accuracy on the forget set"),
    ("RA", "accuracy on the retain set"),
    ("TA", "accuracy on test examples of the classes that are left"),
    ("MIA", "share of the forget set that an attacker, by the confidence, takes for never seen"),
    ("avg. gap", "mean distance of the four to retraining without the forget set: 0 is best"),
)
"""What the columns say, in percent."""


def cells(way: Way) -> list[str]:
    """The numbers of one method, under `HEADINGS`."""
    found = way.scores
    shares = (found.unlearning, found.retain, found.test, found.membership, way.gaps["average"])
    return [*(f"{100 * share:.1f}" for share in shares), f"{found.seconds:.1f}"]


def summary(each: Forgotten) -> str:
    """Which method comes nearest to retraining, in a sentence."""
    _, gold, *others = each.ways
    told = (
        f"Retraining without {each.chosen.name} ({len(each.chosen.rows)} examples) gets "
        f"{100 * gold.scores.unlearning:.1f} % of them wrong"
    )
    if not others:
        return f"{told}."
    best = min(others, key=lambda way: way.gaps["average"])
    return (
        f"{told}; {best.method} comes nearest to it, {100 * best.gaps['average']:.1f} points away "
        "on average."
    )


def render(outcome: Outcome) -> str:
    """The page as text; it needs nothing but a browser."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    folder = files("holdfast.report")
    template = environment.from_string((folder / "forgetting.html.j2").read_text(encoding="utf-8"))
    return template.render(
        css=Markup((folder / "page.css").read_text(encoding="utf-8")),  # our own: quotes stay
        run=str(outcome.run),
        sets=[
            (each, summary(each), [(way, cells(way)) for way in each.ways]) for each in outcome.sets
        ],
        headings=HEADINGS,
        meanings=MEANINGS,
        settings={**outcome.config, **outcome.settings},
        environment=outcome.environment,
    )
