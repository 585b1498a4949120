"""The audit of an unlearning, as rows of text and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from holdfast.report.asked import costs, given
from holdfast.studies.svg import Panel, Series, draw

if TYPE_CHECKING:
    from holdfast.unlearn import Outcome

NONE = "\N{EN DASH}"
NEVER, BEFORE = "as of a model that never knew", "as before"
"""What is good."""

MEASURES = {
    "probability": "probability of the answer",
    "recall": "ROUGE-L recall of what is written",
    "truth": "truth ratio",
    "extraction": "extraction strength",
    "memorised": "exact memorization",
    "loss": "loss (nats a token)",
}
"""What is measured of a set, in words."""


@dataclass(frozen=True)
class Row:
    """One line of the audit, as text.

    Attributes:
        measure: What is measured.
        before: Of the model as it came.
        after: Of the one that has unlearned.
        never: Of one that never knew; empty where none was given.
    """

    measure: str
    before: str
    after: str
    never: str


@dataclass(frozen=True)
class Part:
    """Lines that belong together.

    Attributes:
        title: What they are about.
        rows: One at least.
        good: Where they should be.
    """

    title: str
    rows: list[Row]
    good: str = ""


def parts(outcome: Outcome) -> list[Part]:
    """The whole audit: what is forgotten, what is kept, what gives it away."""
    found = [_forgotten(outcome), *_kept(outcome)]
    if outcome.after.membership:
        found.append(_membership(outcome))
    if outcome.relearning:
        found.append(_relearning(outcome))
    return found


def _forgotten(outcome: Outcome) -> Part:
    before, after, never = outcome.before, outcome.after, outcome.reference
    rows = []
    if before.quality is not None and after.quality is not None:
        first, last = before.quality, after.quality
        rows += [
            Row(
                "forget quality, log10 p",
                _number(first.log10_p, 2),
                _number(last.log10_p, 2),
                "0.00",
            ),
            Row("forget quality, p", f"{first.p:.3g}", f"{last.p:.3g}", "1"),
            Row(
                "distance of truth ratios (KS)",
                _number(first.statistic, 3),
                _number(last.statistic, 3),
                "0.000",
            ),
        ]
    rows += _of_set(before.sets["forget"], after.sets["forget"], never, "forget")
    rows.append(_moved(outcome, "forget"))
    return Part("Forgotten", rows, NEVER)


def _kept(outcome: Outcome) -> list[Part]:
    before, after, never = outcome.before, outcome.after, outcome.reference
    if after.utility is None:
        return []
    utility = Row(
        f"model utility, of {len(after.parts)} numbers",
        _number(before.utility, 3),
        _number(after.utility, 3),
        _number(never.utility, 3) if never is not None else "",
    )
    found = [Part("Kept", [utility], BEFORE)]
    for name in after.sets:
        if name == "forget":
            continue
        rows = _of_set(before.sets[name], after.sets[name], never, name)
        found.append(Part(f"Kept: {name}", [*rows, _moved(outcome, name)], BEFORE))
    return found


def _of_set(
    before: dict[str, float | None], after: dict[str, float | None], never: Any, name: str
) -> list[Row]:
    told = never.sets.get(name, {}) if never is not None else {}
    return [
        Row(
            words,
            _number(before[key], 3),
            _number(after[key], 3),
            _number(told.get(key), 3) if never is not None else "",
        )
        for key, words in MEASURES.items()
        if after[key] is not None
    ]


def _moved(outcome: Outcome, name: str) -> Row:
    return Row("KL from before (nats a token)", "0.000", _number(outcome.divergence[name], 3), "")


def _membership(outcome: Outcome) -> Part:
    told = {} if outcome.reference is None else outcome.reference.membership
    never = outcome.reference is not None
    return Part(
        "Membership attacks (AUC)",
        [
            Row(
                name,
                _number(outcome.before.membership[name], 3),
                _number(value, 3),
                _number(told.get(name), 3) if never else "",
            )
            for name, value in outcome.after.membership.items()
        ],
        NEVER if never else "0.5",
    )


def _relearning(outcome: Outcome) -> Part:
    losses, never = outcome.relearning, outcome.reference
    told = never.relearning if never is not None else []
    known = outcome.before.sets["forget"]["loss"]
    steps = [0, len(losses) // 2, len(losses) - 1]
    return Part(
        "Relearning (loss on the forget set)",
        [
            Row(
                f"after {step} updates",
                _number(known, 3) if not step else "",
                _number(losses[step], 3),
                _number(told[step], 3) if step < len(told) else "",
            )
            for step in dict.fromkeys(steps)
        ],
        NEVER if told else "",
    )


def summary(outcome: Outcome) -> str:
    """What happened, in a few sentences."""
    before, after = outcome.before, outcome.after
    told = []
    quality = after.quality
    if quality is not None:
        alike = quality.p >= 0.05
        told.append(
            f"By its truth ratios on the forget set, the model {'cannot' if alike else 'can'} be "
            f"told from one that never knew (KS test, p = {quality.p:.2g})."
        )
    if before.utility and after.utility is not None:
        told.append(
            f"It keeps {100 * after.utility / before.utility:.0f} % of its utility "
            f"({before.utility:.3f} before, {after.utility:.3f} after)."
        )
    first, last = (look.sets["forget"]["probability"] for look in (before, after))
    assert first is not None
    assert last is not None
    told.append(
        f"The answers to be forgotten had a probability of {first:.3f} a token and have {last:.3f}."
    )
    return " ".join(told)


def figure(outcome: Outcome) -> str:
    """Forget quality and utility after every epoch, as far as they exist."""
    points = outcome.trajectory
    panels = [
        Panel(
            title,
            "epoch",
            label,
            [Series(outcome.request.method, [p["epoch"] for p in points], values)],
        )
        for title, label, key in (
            ("forget quality", "log10 p", "log10_p"),
            ("model utility", "", "utility"),
            ("probability of what is forgotten", "", "forget_probability"),
        )
        if None not in (values := [point[key] for point in points])
    ]
    return draw(panels)


def render(outcome: Outcome) -> str:
    """The page as text; it needs nothing but a browser."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    folder = files("holdfast.report")
    template = environment.from_string((folder / "unlearning.html.j2").read_text(encoding="utf-8"))
    return template.render(
        css=Markup((folder / "page.css").read_text(encoding="utf-8")),  # our own: quotes stay
        request=outcome.request,
        settings=given(outcome.request),
        parts=parts(outcome),
        has_never=outcome.reference is not None,
        figure=Markup(figure(outcome)),
        points=_points(outcome),
        summary=summary(outcome),
        warnings=outcome.warnings,
        cost=costs(outcome.record.cost),
        environment=outcome.environment,
    )


def _points(outcome: Outcome) -> list[Sequence[str]]:
    return [
        (
            f"{point['epoch']:g}",
            _number(point["log10_p"], 2),
            _number(point["utility"], 3),
            _number(point["forget_probability"], 3),
            _number(point["forget_extraction"], 3),
            _number(point["forget_loss"], 3),
        )
        for point in outcome.trajectory
    ]


def _number(value: float | None, digits: int) -> str:
    return NONE if value is None else f"{value:.{digits}f}"
