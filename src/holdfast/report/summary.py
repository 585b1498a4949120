"""The answer in plain words, computed from the numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from holdfast.report.comparison import Arm, Comparison
from holdfast.report.quantities import QUANTITIES, Cell

_KINDS = {quantity.name: quantity.kind for quantity in QUANTITIES}
_NAMED = 3
"""So many methods are listed by name; the rest are counted."""


class Name(str):
    """A method's name within a sentence, to be set apart when shown."""


Words = list[str]
"""A paragraph as pieces, of which some are `Name`s."""


def summarise(comparison: Comparison) -> Words:
    """Which method kept most, at what cost, and whether the seeds can tell.

    Methods that are given all earlier data are named apart, as bounds; methods without a final
    accuracy are not ranked. Two methods are told apart only by 95 % intervals that do not overlap.
    """
    ranked = [arm for arm in comparison.arms if math.isfinite(arm.mean("average_accuracy"))]
    rivals = [arm for arm in ranked if not arm.reference]
    bounds = [arm for arm in ranked if arm.reference]
    words: Words = []
    if rivals:
        words += _best(rivals, comparison.experiences)
        words += _told_apart(rivals)
        words += _cost(rivals)
        words += _least(rivals)
    words += _bounds(bounds, bool(rivals))
    unranked = [arm for arm in comparison.arms if arm not in ranked]
    if unranked:
        words += _list(unranked)
        words += [" ", _verb(unranked, "is", "are"), " not ranked: scores are missing (NaN). "]
    words += _seeds(comparison.arms)
    words[-1] = words[-1].rstrip()
    return words


def overlap(a: Arm, b: Arm) -> bool | None:
    """Whether the 95 % intervals of final accuracy meet; None if one of the two has no interval."""
    name = "average_accuracy"
    reach = a.half(name) + b.half(name)
    if math.isnan(reach):
        return None
    return abs(a.mean(name) - b.mean(name)) <= reach


def _best(rivals: Sequence[Arm], experiences: int) -> Words:
    best, *others = rivals
    after = f"after {experiences} experiences" if experiences > 1 else "after its one experience"
    accuracy = f"{_said(best, 'average_accuracy')} average accuracy {after}"
    if not others:
        words: Words = [_name(best), f" ended with {accuracy}"]
    else:
        words = [_name(best), f" kept most of {len(rivals)} methods: {accuracy}"]
    if experiences > 1:
        words.append(f", with {_said(best, 'forgetting')} forgetting")
    words.append(". ")
    return words


def _told_apart(rivals: Sequence[Arm]) -> Words:
    best, *others = rivals
    if not others:
        return []
    verdicts = {id(other): overlap(best, other) for other in others}
    same = [other for other in others if verdicts[id(other)]]
    unknown = [other for other in others if verdicts[id(other)] is None]
    words: Words = []
    if same:
        words += ["Its 95 % interval overlaps with "]
        words += [_verb(same, "that of ", "those of "), *_list(same)]
        words += [", so these runs do not tell them apart. "]
    elif not unknown:
        second = others[0]
        words += ["Its 95 % interval lies clear of all others; next is ", _name(second)]
        words += [f" with {_said(second, 'average_accuracy')}. "]
    if len(best.runs) == 1:
        words += ["With one seed it has no interval, so the difference may be chance. "]
    elif unknown:
        words += ["Against ", *_list(unknown), " there is no interval to compare. "]
    return words


def _least(rivals: Sequence[Arm]) -> Words:
    last = rivals[-1]
    if len(rivals) < 3:
        return []
    return [_name(last), f" kept least, {_said(last, 'average_accuracy')}. "]


def _cost(rivals: Sequence[Arm]) -> Words:
    best = rivals[0]
    subject = "It" if len(rivals) == 1 else "The best"
    timed = [arm for arm in rivals if arm.mean("seconds") > 0]
    words: Words = []
    if best in timed:
        words = [f"{subject} took {_said(best, 'seconds')}"]
        quickest = min(timed, key=lambda arm: arm.mean("seconds"))
        if quickest is not best:
            ratio = best.mean("seconds") / quickest.mean("seconds")
            words += [f", {ratio:.1f} times as long as ", _name(quickest)]
        elif all(arm.mean("seconds") > best.mean("seconds") for arm in timed if arm is not best):
            words += [", less than any other"] if len(timed) > 1 else []
    if math.isfinite(best.mean("method_bytes")):
        stored = _said(best, "method_bytes") if best.mean("method_bytes") else "nothing"
        words += [", and stores " + stored] if words else [f"{subject} stores {stored}"]
    return [*words, ". "] if words else []


def _bounds(bounds: Sequence[Arm], beside_rivals: bool) -> Words:
    words: Words = []
    for arm in bounds:
        reached = _said(arm, "average_accuracy")
        role = ", which is given all earlier data" + (" and so is a bound" * beside_rivals)
        words += [_name(arm), f"{role}, reached {reached}. "]
    return words


def _seeds(arms: Sequence[Arm]) -> Words:
    seeds = {tuple(run.seed for run in arm.runs) for arm in arms}
    if len(seeds) > 1:
        return ["Not all methods ran with the same seeds, which makes the comparison uneven."]
    count = len(next(iter(seeds)))
    return [f"Each number is the mean of {count} seeds."] if count > 1 else ["One seed (n = 1)."]


def _said(arm: Arm, name: str) -> str:
    kind = _KINDS[name]
    text = Cell(kind, arm.values.get(name, (math.nan,))).text
    return f"{text} %" if kind == "percent" and text[-1].isdigit() else text


def _list(arms: Sequence[Arm]) -> Words:
    named = arms if len(arms) <= _NAMED + 1 else arms[:_NAMED]
    pieces: list[str] = [_name(arm) for arm in named]
    if len(named) < len(arms):
        pieces.append(f"{len(arms) - len(named)} others")
    words: Words = []
    for i, piece in enumerate(pieces):
        if i:
            words.append(" and " if i == len(pieces) - 1 else ", ")
        words.append(piece)
    return words


def _name(arm: Arm) -> Name:
    return Name(shortened(arm.label))


def _verb(arms: Sequence[Arm], one: str, many: str) -> str:
    return one if len(arms) == 1 else many


def shortened(text: str, length: int = 60) -> str:
    """The text, or its beginning and an ellipsis."""
    return text if len(text) <= length else text[: length - 1] + "…"
