"""The rules of merging, each with its arguments, brought over a whole model piece by piece.

What a rule does with the changes of one tensor is in `rules`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from holdfast.errors import UsageError
from holdfast.merge import rules
from holdfast.merge.catalogue import Rule, Weighting, weighting
from holdfast.merge.changes import Begin, Changes, Combine, Inputs, Piece
from holdfast.spec import Spec


def elementwise(
    combine: Callable[[Sequence[Tensor], Sequence[float]], Tensor],
    weights: Weighting,
    scale: float = 1.0,
    *,
    of_changes: bool = True,
) -> Rule:
    """A rule that needs nothing of a tensor but the entries at hand."""

    def start(inputs: Inputs) -> Begin:
        each = weighting(weights, len(inputs.models), scale)
        return lambda changes: lambda piece: combine(piece.deltas, each)

    return Rule(Spec(""), start, of_changes)


def average() -> Rule:
    """The mean of all models, and of the base where it is given."""

    def start(inputs: Inputs) -> Begin:
        count = len(inputs.models)
        return lambda changes: lambda piece: rules.linear(piece.deltas, [1 / count] * count)

    return Rule(Spec(""), start, False)


def linear(weights: Weighting = None) -> Rule:
    """A weighted mean of models; weights in the order of base, if it is given, and models."""

    def start(inputs: Inputs) -> Begin:
        count = len(inputs.models)
        each = [1 / count] * count if weights is None else weighting(weights, count)
        if not math.isclose(sum(each), 1, abs_tol=1e-6):
            raise UsageError(
                f"weights of linear must sum to 1; given: {each}, which sum to {sum(each):g}. To "
                "add changes to a base with any weights there is task_arithmetic(weights=...)."
            )
        return lambda changes: lambda piece: rules.linear(piece.deltas, each)

    return Rule(Spec(""), start, False)


def task_arithmetic(scale: float = 0.4, weights: Weighting = None) -> Rule:
    """The base and `scale` times all changes; a negative scale takes them away."""
    return elementwise(rules.linear, weights, scale)


def wise_ft(alpha: float = 0.5) -> Rule:
    """The point at share `alpha` of the line from the base to one tuned model."""
    rules.check_share("alpha", alpha)
    return Rule(Spec(""), elementwise(rules.linear, None, alpha).start, True, most=1)


def ties(density: float = 0.2, scale: float = 1.0, weights: Weighting = None) -> Rule:
    """TIES: trimmed changes, an elected sign an entry, the mean of those that have it."""
    rules.check_share("density", density, empty=False)
    return trimmed(
        lambda changes, model: rules.Largest.select(changes.magnitudes(model), density),
        lambda deltas, each: rules.disjoint_mean(deltas, each).mul_(scale),
        weights,
    )


def magnitude(
    density: float = 0.2, scale: float = 1.0, rescale: str = "none", weights: Weighting = None
) -> Rule:
    """The base and the largest entries of all changes."""
    rules.check_share("density", density, empty=False)
    _check_rescale(rescale)

    def start(inputs: Inputs) -> Begin:
        each = weighting(weights, len(inputs.models), scale)

        def begin(changes: Changes) -> Combine:
            grown = list(each)
            largest = []
            for model in range(len(changes.models)):
                sizes = changes.magnitudes(model)
                total = float(sizes.sum(dtype="float64"))
                largest.append(rules.Largest.select(sizes, density))
                if rescale == "expected":
                    grown[model] /= density
                elif rescale == "l1" and len(sizes):
                    kept = max(1, min(len(sizes), round(density * len(sizes))))
                    # Selecting has put the largest at the end.
                    tail = float(sizes[len(sizes) - kept :].sum(dtype="float64"))
                    grown[model] *= rules.l1_factor(total, tail)
            return lambda piece: rules.linear(_masked(piece, largest), grown)

        return begin

    return Rule(Spec(""), start, True, whole=True)


def breadcrumbs(
    density: float = 0.1, outliers: float = 0.01, scale: float = 1.0, weights: Weighting = None
) -> Rule:
    """The base and all changes without their largest and their smallest entries."""
    rules.breadcrumbs([torch.zeros(1)], [1.0], density, outliers)  # refuses what does not fit

    def start(inputs: Inputs) -> Begin:
        each = weighting(weights, len(inputs.models), scale)

        def begin(changes: Changes) -> Combine:
            most, top = [], []
            for model in range(len(changes.models)):
                sizes = changes.magnitudes(model)
                most.append(rules.Largest.select(sizes, density + outliers))
                top.append(rules.Largest.select(sizes, outliers))

            def combine(piece: Piece) -> Tensor:
                kept = [
                    delta * (a.mask(delta) & ~b.mask(delta))
                    for delta, a, b in zip(piece.deltas, most, top, strict=True)
                ]
                return rules.linear(kept, each)

            return combine

        return begin

    return Rule(Spec(""), start, True, whole=True)


def dare(
    drop: float = 0.5,
    scale: float = 1.0,
    rescale: str = "expected",
    seed: int = 0,
    weights: Weighting = None,
) -> Rule:
    """DARE: entries dropped at random, the others rescaled, and added to the base."""
    return _by_chance(
        drop, rescale, seed, lambda deltas, each: rules.linear(deltas, [scale * w for w in each]),
        weights,
    )  # fmt: skip


def dare_ties(
    drop: float = 0.5,
    scale: float = 1.0,
    rescale: str = "expected",
    seed: int = 0,
    weights: Weighting = None,
) -> Rule:
    """DARE's dropping, then TIES' election."""
    return _by_chance(
        drop, rescale, seed,
        lambda deltas, each: rules.disjoint_mean(deltas, each).mul_(scale), weights,
    )  # fmt: skip


def slerp(t: float = 0.5) -> Rule:
    """The point at share `t` of the arc between two models, tensor by tensor."""
    rules.check_share("t", t)

    def begin(changes: Changes) -> Combine:
        sums = torch.zeros(3, dtype=torch.float64)
        for piece in changes.pieces():
            a, b = (delta.flatten().double() for delta in piece.deltas)
            sums += torch.stack([a @ b, a @ a, b @ b])
        dot, of_a, of_b = sums.tolist()
        each = rules.arc(dot, math.sqrt(of_a) * math.sqrt(of_b), t)
        return lambda piece: rules.linear(piece.deltas, each)

    return Rule(Spec(""), lambda inputs: begin, False, most=2)


def trimmed(
    select: Callable[[Changes, int], rules.Largest],
    combine: Callable[[Sequence[Tensor], Sequence[float]], Tensor],
    weights: Weighting,
) -> Rule:
    """A rule on the largest entries of each change."""

    def start(inputs: Inputs) -> Begin:
        each = weighting(weights, len(inputs.models))

        def begin(changes: Changes) -> Combine:
            largest = [select(changes, model) for model in range(len(changes.models))]
            return lambda piece: combine(_masked(piece, largest), each)

        return begin

    return Rule(Spec(""), start, True, whole=True)


def _by_chance(
    drop: float,
    rescale: str,
    seed: int,
    combine: Callable[[Sequence[Tensor], Sequence[float]], Tensor],
    weights: Weighting,
) -> Rule:
    rules.check_drop(drop)
    _check_rescale(rescale)

    def start(inputs: Inputs) -> Begin:
        each = weighting(weights, len(inputs.models))
        count = len(inputs.models)

        def generators(changes: Changes) -> list[torch.Generator]:
            return [changes.generator(seed, model) for model in range(count)]

        def kept(piece: Piece, draws: Sequence[torch.Generator]) -> list[Tensor]:
            return [
                delta * rules.kept_by_chance(delta, drop, draw)
                for delta, draw in zip(piece.deltas, draws, strict=True)
            ]

        def begin(changes: Changes) -> Combine:
            factors = [1 / (1 - drop) if rescale == "expected" else 1.0] * count
            if rescale == "l1":
                before, after, draws = [0.0] * count, [0.0] * count, generators(changes)
                for piece in changes.pieces():
                    for i, left in enumerate(kept(piece, draws)):
                        before[i] += rules.total_magnitude(piece.deltas[i])
                        after[i] += rules.total_magnitude(left)
                factors = [rules.l1_factor(b, a) for b, a in zip(before, after, strict=True)]
            again = generators(changes)
            return lambda piece: combine(
                [left.mul_(f) for left, f in zip(kept(piece, again), factors, strict=True)], each
            )

        return begin

    return Rule(Spec(""), start, True)


def _masked(piece: Piece, largest: Sequence[rules.Largest]) -> list[Tensor]:
    return [delta * kept.mask(delta) for delta, kept in zip(piece.deltas, largest, strict=True)]


def _check_rescale(rescale: str) -> None:
    rules.rescaled(torch.zeros(1), torch.zeros(1), 1.0, rescale)  # type: ignore[arg-type]
