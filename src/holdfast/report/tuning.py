"""The page of a fine-tuning: what was gained, what was kept, and what was lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from holdfast.report.asked import costs, given
from holdfast.report.diff import VERDICTS

if TYPE_CHECKING:
    from holdfast.finetune import Outcome
    from holdfast.language.paired import Difference
    from holdfast.language.verdict import SetDiff


@dataclass(frozen=True)
class Row:
    """One line of the table, as text.

    Attributes:
        name: Of the set; empty in its second line.
        measure: `loss`, in nats a token, or the name of the score, in percent.
        before: Of the model as it came.
        after: Of the tuned one.
        change: With its 95 % interval.
        plain: After plain training; empty where there was none.
        judged: Whether the verdict of the set goes by this line.
    """

    name: str
    measure: str
    before: str
    after: str
    change: str
    plain: str
    judged: bool


def rows(found: SetDiff, plain: SetDiff | None = None) -> list[Row]:
    """The lines of a set: its score, if it has one, and its loss."""
    lines: list[Row] = []
    for measure, pair, difference, of_plain, percent in (
        (found.metric, found.score, found.score_difference, plain and plain.score, True),
        ("loss", found.loss, found.loss_difference, plain and plain.loss, False),
    ):
        if pair is None or difference is None:
            continue
        lines.append(
            Row(
                found.name if not lines else "",
                f"{measure} (%)" if percent else measure,
                _number(pair[0], percent),
                _number(pair[1], percent),
                change(difference, percent),
                _number(of_plain[1], percent) if of_plain else "",
                difference is found.judged,
            )
        )
    return lines


def change(difference: Difference, percent: bool) -> str:
    """A difference with its interval: `-0.12 [-0.15, -0.09]`."""
    low, high = (f"{_signed(end, percent)}" for end in (difference.low, difference.high))
    return f"{_signed(difference.value, percent)} [{low}, {high}]"


def render(outcome: Outcome) -> str:
    """The page as text; it needs nothing but a browser."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    folder = files("holdfast.report")
    template = environment.from_string((folder / "tuning.html.j2").read_text(encoding="utf-8"))
    recipe = outcome.recipe
    plain: Sequence[SetDiff | None] = outcome.plain or [None] * len(outcome.sets)
    return template.render(
        css=Markup((folder / "page.css").read_text(encoding="utf-8")),  # our own: quotes stay
        recipe=recipe,
        settings=given(outcome.recipe),
        sets=[
            (found, rows(found, other)) for found, other in zip(outcome.sets, plain, strict=True)
        ],
        has_plain=bool(outcome.plain),
        verdicts=VERDICTS,
        summary=summary(outcome),
        notes=outcome.record.notes,
        warnings=outcome.warnings,
        cost=costs(outcome.record.cost),
        environment=outcome.environment,
    )


def summary(outcome: Outcome) -> str:
    """What happened, in a sentence or two."""
    gained, guards = outcome.sets[0], outcome.sets[1:]
    words = {"gain": "got better", "same": "is as before beyond chance"}
    learned = f"{gained.name} {words.get(gained.verdict, 'got worse')}{_beside(gained)}"
    if not guards:
        return f"{learned}. No guard set was given, so nothing is known of what was lost."
    lost = [found.name for found in guards if found.verdict == "drop"]
    kept = (
        f"more than the allowed {100 * outcome.recipe.max_drop:g} % was lost on {', '.join(lost)}"
        if lost
        else "on no guard set more was lost than is allowed"
    )
    moved = [f"{found.name}{_beside(found)}" for found in guards if _beside(found)]
    return f"{learned}; {kept}." + (f" Yet look at {'; '.join(moved)}." if moved else "")


def _beside(found: SetDiff) -> str:
    """What the loss says where the score says nothing: all wrong before and after, say."""
    loss = found.loss_difference
    if found.verdict != "same" or found.score is None or loss is None or not loss.significant:
        return ""
    return f" by its {found.metric}, while its loss {'rose' if loss.value > 0 else 'fell'}"


def _number(value: float, percent: bool) -> str:
    return f"{100 * value:.1f}" if percent else f"{value:.3f}"


def _signed(value: float, percent: bool) -> str:
    return f"{100 * value:+.1f}" if percent else f"{value:+.3f}"
