"""Rules of merging: several changes of one tensor become one.

A change is a tuned tensor minus the base's, a task vector of that tensor. Every rule takes the
changes of one tensor in the same shape, with one weight each, and answers with one change in single
precision, which the caller adds to the base and brings back to the dtype that it wants. None
changes what it is given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from holdfast.errors import UsageError

Change = Float[Tensor, "..."]
Rescale = Literal["none", "expected", "l1"]
"""What is made of kept entries: nothing; divided by the chance to be kept, so that the expectation
stays; or brought to the tensor's sum of magnitudes from before."""

PARALLEL = 0.9995
"""Two tensors whose cosine is further from 0 than this lie on a line: they are not rotated."""


def linear(deltas: Sequence[Change], weights: Sequence[float]) -> Change:
    """The weighted sum: with weights 1/n an average, with one scale for all task arithmetic.

    A negative weight takes away what its change brought.

    Args:
        deltas: Changes of one tensor.
        weights: One for each.

    Raises:
        UsageError: If there are none, or if shapes or numbers do not agree.

    Source: Wortsman et al., "Model soups" (2022); Ilharco et al., "Editing models with task
    arithmetic" (2023).

    Example:
        >>> linear([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.0])], [0.5, 1.0]).tolist()
        [3.5, 1.0]
    """
    check(deltas, weights)
    total = deltas[0].float() * weights[0]
    for delta, weight in zip(deltas[1:], weights[1:], strict=True):
        total.add_(delta.float(), alpha=weight)
    return total


def magnitude(
    deltas: Sequence[Change],
    weights: Sequence[float],
    density: float,
    rescale: Rescale = "none",
) -> Change:
    """The weighted sum of changes trimmed to their largest entries.

    Args:
        deltas: Changes of one tensor.
        weights: One for each.
        density: Share of the entries of each that stays, in (0, 1].
        rescale: What becomes of those that stay.

    Raises:
        UsageError: As `linear`, or if the density is out of range.
    """
    check(deltas, weights)
    kept = [
        rescaled(trim(delta, density), delta, density if rescale == "expected" else 1.0, rescale)
        for delta in deltas
    ]
    return linear(kept, weights)


def ties(deltas: Sequence[Change], weights: Sequence[float], density: float) -> Change:
    """TIES: trim each change, elect one sign an entry, and average those that have it.

    What is asked of the whole (its scale, lambda) is the caller's.

    Args:
        deltas: Changes of one tensor.
        weights: One for each.
        density: Share of the entries of each that stays, in (0, 1].

    Raises:
        UsageError: As `magnitude`.

    Source: Yadav et al., "TIES-merging: resolving interference when merging models" (2023).

    Differs from the paper: It trims each tensor by itself, as implementations that read models
    tensor by tensor do, where the paper ranks the entries of the whole model. Weights enter the
    election and the mean, as in mergekit; with equal ones it is the paper's.

    Example:
        >>> ties([torch.tensor([3.0, -1.0]), torch.tensor([-1.0, -3.0])], [1, 1], 1.0).tolist()
        [3.0, -2.0]
    """
    check(deltas, weights)
    return disjoint_mean([trim(delta, density) for delta in deltas], weights)


def dare(
    deltas: Sequence[Change],
    weights: Sequence[float],
    drop: float,
    generator: Generator,
    rescale: Rescale = "expected",
) -> Change:
    """DARE: drop entries at random, rescale the others, and add.

    Args:
        deltas: Changes of one tensor.
        weights: One for each.
        drop: Share that is dropped, in [0, 1).
        generator: Drawn from once an entry, change after change.
        rescale: `"expected"` divides by 1 - drop, as the paper; `"l1"` keeps each change's sum of
            magnitudes, as mergekit.

    Raises:
        UsageError: As `linear`, or if `drop` or `rescale` is out of range.

    Source: Yu et al., "Language models are super Mario: absorbing abilities from homologous models
    as a free lunch" (2024).
    """
    check(deltas, weights)
    return linear([dropped(delta, drop, generator, rescale) for delta in deltas], weights)


def dare_ties(
    deltas: Sequence[Change],
    weights: Sequence[float],
    drop: float,
    generator: Generator,
    rescale: Rescale = "expected",
) -> Change:
    """DARE's random dropping in place of TIES' trimming; arguments as of `dare`."""
    check(deltas, weights)
    return disjoint_mean([dropped(delta, drop, generator, rescale) for delta in deltas], weights)


def breadcrumbs(
    deltas: Sequence[Change], weights: Sequence[float], density: float, outliers: float
) -> Change:
    """Model Breadcrumbs: the weighted sum without the largest and the smallest entries.

    Args:
        deltas: Changes of one tensor.
        weights: One for each.
        density: Share of entries that stays.
        outliers: Share of the largest that goes; what is left goes with the smallest.

    Raises:
        UsageError: As `linear`, or if the two shares do not lie within 1.

    Source: Davari and Belilovsky, "Model breadcrumbs" (2024).

    Example:
        >>> breadcrumbs([torch.tensor([9.0, 3.0, -2.0, 0.1])], [1.0], 0.5, 0.25).tolist()
        [0.0, 3.0, -2.0, 0.0]
    """
    check(deltas, weights)
    check_share("density", density, empty=False)
    check_share("outliers", outliers)
    if density + outliers > 1:
        raise UsageError(
            f"density and outliers must lie within 1 together; given: {density} and {outliers}."
        )
    return linear([crumbs(delta, density, outliers) for delta in deltas], weights)


def slerp(a: Change, b: Change, t: float) -> Float[Tensor, ...]:
    """The point at share `t` of the arc from tensor `a` to tensor `b`, not of the chord.

        sin((1 - t) W) / sin W * a + sin(t W) / sin W * b

    with W the angle between the two as vectors. Directions are normalised for the angle alone:
    the tensors enter with their own norms. Where they are parallel, opposite or zero there is no
    one arc, and the chord is taken.

    Args:
        a: A tensor itself, not its change.
        b: Another of the same shape.
        t: In [0, 1].

    Raises:
        UsageError: If the shapes differ, or `t` is out of range.

    Source: Shoemake, "Animating rotation with quaternion curves" (1985).

    Example:
        >>> slerp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 0.5).tolist()
        [0.7071067690849304, 0.7071067690849304]
    """
    check([a, b], [1, 1])
    a, b = a.float(), b.float()
    dot, norms = float((a.double() * b).sum()), float(a.double().norm() * b.double().norm())
    return linear([a, b], arc(dot, norms, t))


def arc(dot: float, norms: float, t: float) -> tuple[float, float]:
    """What two tensors are multiplied by at share `t` of their arc.

    Args:
        dot: Their inner product.
        norms: The product of their norms.
        t: In [0, 1].
    """
    check_share("t", t)
    cosine = dot / norms if norms else 1.0
    if abs(cosine) > PARALLEL:
        return 1 - t, t
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def disjoint_mean(deltas: Sequence[Change], weights: Sequence[float]) -> Change:
    """Of each entry the weighted mean over those changes that have the elected sign there.

    The sign elected is that of the weighted sum, where 0 counts as +. An entry that no change
    agrees on, because all are 0 there, is 0. A change of 0 agrees with nothing.

    Args:
        deltas: Changes of one tensor, trimmed.
        weights: One for each.
    """
    weighted = [delta.float() * weight for delta, weight in zip(deltas, weights, strict=True)]
    total = weighted[0].clone()
    for change in weighted[1:]:
        total += change
    elected = torch.where(total >= 0, 1.0, -1.0)
    agreed, divisor = torch.zeros_like(total), torch.zeros_like(total)
    for change, weight in zip(weighted, weights, strict=True):
        agrees = change.sign() == elected
        agreed += change * agrees
        divisor.add_(agrees, alpha=weight)
    return agreed.div_(torch.where(divisor == 0, 1.0, divisor))


def trim(delta: Change, density: float) -> Change:
    """The largest entries by magnitude, 0 elsewhere."""
    return delta.float() * Largest.of(delta, density).mask(delta)


def crumbs(delta: Change, density: float, outliers: float) -> Change:
    """The entries that remain when the largest and the smallest are gone."""
    magnitudes = delta.detach().float().abs()
    most, top = Largest.of(magnitudes, density + outliers), Largest.of(magnitudes, outliers)
    return delta.float() * (most.mask(delta) & ~top.mask(delta))


def dropped(delta: Change, drop: float, generator: Generator, rescale: Rescale) -> Change:
    """What is left of a change when a random share of its entries is gone."""
    check_drop(drop)
    kept = delta.float() * kept_by_chance(delta, drop, generator)
    return rescaled(kept, delta, 1 - drop, rescale)


def kept_by_chance(delta: Change, drop: float, generator: Generator) -> Bool[Tensor, ...]:
    """Which entries stay when a share `drop` goes at random."""
    return torch.rand(delta.shape, generator=generator, device=delta.device) >= drop


def rescaled(kept: Change, delta: Change, share: float, rescale: Rescale) -> Change:
    """Kept entries as `rescale` asks, with `share` the share of them that was kept."""
    if rescale not in get_args(Rescale):
        raise UsageError(
            f"rescale must be one of {', '.join(get_args(Rescale))}; given: {rescale!r}."
        )
    if rescale == "none":
        return kept
    if rescale == "expected":
        return kept / share
    return kept * l1_factor(total_magnitude(delta), total_magnitude(kept))


def l1_factor(before: float, after: float) -> float:
    """By what a change grows to have its sum of magnitudes again; 1 where nothing is left."""
    return before / after if after else 1.0


def total_magnitude(delta: Change) -> float:
    """The sum of magnitudes, in double precision."""
    return float(delta.abs().sum(dtype=torch.float64))


@dataclass
class Largest:
    """The k largest entries of a tensor by magnitude, told from the rest piece by piece.

    Of equal magnitudes at the edge as many stay as are wanted, the first ones: checkpoints in half
    precision have many.

    Attributes:
        threshold: Magnitude of the k-th.
        edge: How many of exactly that magnitude are still to be taken.
    """

    threshold: float
    edge: int

    @staticmethod
    def of(delta: Tensor, density: float) -> Largest:
        """Those of a whole tensor: the share `density` of its entries, rounded."""
        return Largest.select(delta.detach().float().abs().flatten().cpu().numpy().copy(), density)

    @staticmethod
    def select(magnitudes: np.ndarray[tuple[int], np.dtype[np.float32]], density: float) -> Largest:
        """Those of an array of magnitudes, whose order is lost.

        Raises:
            UsageError: If the density does not lie between 0 and 1.
        """
        check_share("density", density)
        size = len(magnitudes)
        count = min(size, round(density * size)) if density else 0
        if density and size:
            count = max(1, count)
        if not count:
            return Largest(math.inf, 0)
        magnitudes.partition(size - count)
        threshold = magnitudes[size - count]
        above = int(np.count_nonzero(magnitudes[size - count :] > threshold))
        return Largest(float(threshold), count - above)

    def mask(self, delta: Tensor) -> Bool[Tensor, ...]:
        """Which entries of the tensor, or of its next piece, are among them."""
        magnitudes = delta.detach().float().abs()
        kept = magnitudes > self.threshold
        level = magnitudes == self.threshold
        there = int(level.sum())
        if there > self.edge:
            level &= (level.flatten().cumsum(0) <= self.edge).view(level.shape)
        self.edge -= min(there, self.edge)
        return kept | level


def check(deltas: Sequence[Tensor], weights: Sequence[float]) -> None:
    """Raise `UsageError` unless there are changes of one shape, with one finite weight each."""
    if not deltas:
        raise UsageError("There is nothing to merge: no change was given.")
    if len(deltas) != len(weights):
        raise UsageError(f"{len(deltas)} changes need as many weights; given: {len(weights)}.")
    odd = next((delta for delta in deltas if delta.shape != deltas[0].shape), None)
    if odd is not None:
        raise UsageError(
            f"Changes of one tensor have one shape; given: {tuple(deltas[0].shape)} and "
            f"{tuple(odd.shape)}."
        )
    if not all(math.isfinite(weight) for weight in weights):
        raise UsageError(f"weights must be finite; given: {list(weights)}.")


def check_share(name: str, value: float, *, empty: bool = True) -> None:
    """Raise `UsageError` unless a share lies between 0 and 1; `empty`: whether 0 is one."""
    if not (0 <= value <= 1) or (not empty and value == 0):
        wanted = "between 0 and 1" if empty else "above 0 and at most 1"
        raise UsageError(f"{name} must be {wanted}; given: {value}.")


def check_drop(drop: float) -> None:
    """Raise `UsageError` unless something stays when a share `drop` goes."""
    if not 0 <= drop < 1:
        raise UsageError(f"drop must be at least 0 and below 1; given: {drop}.")
