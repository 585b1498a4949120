"""The frontier between old and new: what mixtures of two models lose, and what they keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from holdfast.errors import UsageError
from holdfast.language.measured import Measured
from holdfast.merge.catalogue import build
from holdfast.spec import Spec, parse_one

TENTHS = tuple(step / 10 for step in range(1, 10))
GRIDS: dict[str, dict[str, tuple[Any, ...]]] = {
    "wise_ft": {"alpha": TENTHS},
    "task_arithmetic": {"scale": TENTHS},
    "slerp": {"t": TENTHS},
    "ties": {"density": (0.2, 0.5), "scale": (0.5, 1.0)},
    "dare": {"drop": (0.5, 0.9), "scale": (0.4, 0.7)},
    "magnitude": {"density": (0.1, 0.2, 0.4)},
    "breadcrumbs": {"density": (0.1, 0.3), "scale": (0.5, 1.0)},
    "neuron_fusion": {"share": (0.1, 0.2, 0.4), "rest": (0.0, 0.25, 0.5, 0.75)},
}
"""What is searched of a rule's arguments where none or not all of them are given."""
RULES = ("wise_ft", "neuron_fusion")
APART = 40
"""From so many examples on, every second one of a set is kept to judge what was chosen."""


@dataclass(frozen=True)
class Point:
    """One mixture and what it can do.

    Attributes:
        rule: As a spec; `"base"` and `"tuned"` for the ends.
        lost: Mean over the sets of old abilities of what is lost against the base, as `diff` counts
            it: a score's difference, or the rise of a text's loss by the base's. Below 0: gained.
        kept: Mean over the sets of new abilities of the share of what tuning gained.
        values: By set the score, or the loss for plain text.
        front: Whether no other mixture loses less and keeps more.
    """

    rule: str
    lost: float
    kept: float
    values: dict[str, float]
    front: bool = False


def candidates(rule: str) -> list[str]:
    """All specs that a spec with lists, or without some arguments, stands for.

    Raises:
        UsageError: If there is no such rule or argument.

    Example:
        >>> candidates("ties(density=[0.1, 0.3], scale=0.5)")
        ['ties(density=0.1, scale=0.5)', 'ties(density=0.3, scale=0.5)']
    """
    spec = parse_one(rule)
    if spec.positional:
        raise UsageError(f"Give the arguments of {spec.name} by name; given: {rule!r}.")
    grid: dict[str, Sequence[Any]] = {
        name: value if isinstance(value, list) else [value] for name, value in spec.named.items()
    }
    for name, values in GRIDS.get(spec.name, {}).items():
        grid.setdefault(name, values)
    empty = next((name for name, values in grid.items() if not values), None)
    if empty is not None:
        raise UsageError(f"{empty} of {spec.name} is an empty list; give a value or several.")
    found = []
    for values in product(*grid.values()):
        one = Spec(spec.name, (), dict(zip(grid, values, strict=True)))
        found.append(str(build(str(one)).spec))
    return found


def point(
    name: str,
    sets: Sequence[Measured],
    base: Sequence[Measured],
    tuned: Sequence[Measured],
    old: int,
) -> Point:
    """What a mixture lost of the first `old` sets, and kept of the others."""
    lost = [drop(one, other) for one, other in zip(base[:old], sets[:old], strict=True)]
    kept = [
        (worth(found) - worth(one)) / (worth(other) - worth(one))
        for one, found, other in zip(base[old:], sets[old:], tuned[old:], strict=True)
    ]
    values = {found.name: found.loss if found.score is None else found.score for found in sets}
    return Point(name, sum(lost) / len(lost), sum(kept) / len(kept), values)


def worth(found: Measured) -> float:
    """A number that is larger for a better model: the score, or minus the loss."""
    return -found.loss if found.score is None else found.score


def drop(base: Measured, found: Measured) -> float:
    """What was lost, as `compare_set` counts it."""
    if base.score is None or found.score is None:
        return found.loss / base.loss - 1
    return base.score - found.score


def on_front(points: Sequence[Point]) -> list[Point]:
    """The same points, with the frontier marked."""

    def beaten(p: Point) -> bool:
        return any(
            q.lost <= p.lost and q.kept >= p.kept and (q.lost, q.kept) != (p.lost, p.kept)
            for q in points
        )

    return [Point(p.rule, p.lost, p.kept, p.values, not beaten(p)) for p in points]


def chosen(points: Sequence[Point], keep_new: float) -> Point:
    """Of the points that keep enough of the new the one that lost least of the old."""
    enough = [p for p in points if p.kept >= keep_new]
    return min(enough, key=lambda p: (p.lost, -p.kept))


def half(found: Measured, which: int) -> Measured:
    """Every second example of a set that is large enough, beginning with the first or second."""
    return found if len(found) < APART else found.take(slice(which, None, 2))


def families(points: Sequence[Point]) -> Mapping[str, list[Point]]:
    """Points by the rule that made them."""
    found: dict[str, list[Point]] = {}
    for p in points:
        found.setdefault(p.rule.partition("(")[0], []).append(p)
    return found
