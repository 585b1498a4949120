"""How often what occurs when: matrices of counts, a row an experience, a column a group.

A group is a class, or a task. Such a matrix and a data set make a stream (`generator`). All that is
drawn here is drawn from the generator given, on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Counts = Int[Tensor, "experiences groups"]


def apportioned(
    total: int, weights: Float[Tensor, " groups"], owed: Float[Tensor, " groups"] | None = None
) -> Int[Tensor, " groups"]:
    """Whole numbers in proportion to weights, summing to `total`: the method of largest remainders.

    Args:
        total: What the numbers sum to.
        weights: Not negative, not all 0.
        owed: What earlier calls gave too little to each, which is made good first; changed in
            place to what is owed after this call. Sums to 0.

    Example:
        >>> apportioned(10, torch.tensor([1.0, 1.0, 1.0])).tolist()
        [4, 3, 3]
    """
    quota = weights.double() / weights.double().sum() * total
    if owed is not None:
        quota = quota + owed
    # What is a whole number but for rounding is one.
    whole = (quota + 1e-9).floor().clamp(min=0)
    missing = total - int(whole.sum())
    left = quota - whole
    if missing >= 0:
        whole[left.argsort(descending=True, stable=True)[:missing]] += 1
    while (over := int(whole.sum()) - total) > 0:  # more was given before than was due
        given = torch.where(whole > 0, quota - whole, torch.inf)
        whole[given.argsort(stable=True)[: min(over, int((whole > 0).sum()))]] -= 1
    if owed is not None:
        owed.copy_(quota - whole)
    return whole.long()


def presence(subsets: Sequence[Tensor], classes: int) -> Bool[Tensor, "experiences classes"]:
    """Which classes are in which subset."""
    here = torch.zeros(len(subsets), classes, dtype=torch.bool)
    for place, members in enumerate(subsets):
        here[place, members] = True
    return here


# How much of earlier tasks comes with a new one.

Rehearsal = Literal[
    "none", "uniform", "exponential", "power-law", "power-function", "natural", "all"
]


def rehearsal(
    tasks: int,
    limit: int,
    family: Rehearsal,
    share: float = 0.5,
    exponent: float = 5.6,
    scale: float = 10.0,
    decay: float = 1.0,
    alpha: float = 5.0,
) -> Counts:
    """Experience i brings task i with `limit` examples, and earlier tasks by their lag.

    With lag l = i - j >= 1 of task j, and floor(share * limit) examples of earlier tasks in all:

        uniform         w = 1
        exponential     w = exp(-l / decay)
        power-law       w = (1 + l / scale)^-exponent
        power-function  w = s^(alpha - 1), s = 0.10 + 0.01 j, which grows with the task's number

    `natural` gives every lag its own number, limit * (1 + l / scale)^-exponent, and so more in all
    the more tasks there are; `none` gives nothing and `all` gives `limit` of every task.

    Args:
        tasks: As many as experiences.
        limit: Examples of a new task.
        family: How the rest is shared out.
        share: Of `limit`, for all earlier tasks together.
        exponent: Of the power law. The published curve of the natural environment is this one at
            5.6, with `scale` 10.
        scale: Of its lags.
        decay: Experiences in which an exponential falls to 1/e.
        alpha: Of the power function.

    Source: Gandhi et al., "Catastrophic interference is mitigated in naturalistic power-law
    learning environments" (2024); a power law of the lag after Anderson and Schooler, "Reflections
    of the environment in memory" (1991).

    Differs from the paper: its power law is the power function, and the power law of the lag is
    ours, which is its natural curve brought to a total. All four families sum to exactly
    floor(share * limit), rounded by largest remainders; the public code rounds every number down,
    and so shows up to a few examples fewer.

    Example:
        >>> rehearsal(3, 10, "uniform", share=0.5).tolist()
        [[10, 0, 0], [5, 10, 0], [3, 2, 10]]
    """
    counts = torch.zeros(tasks, tasks, dtype=torch.long)
    for i in range(tasks):
        lag = torch.arange(i, 0, -1, dtype=torch.float64)
        power = (1 + lag / scale).pow(-exponent)
        if i and family == "all":
            counts[i, :i] = limit
        elif i and family == "natural":
            counts[i, :i] = (limit * power).round().long()
        elif i and family != "none":
            weights = {
                "uniform": torch.ones_like(lag),
                "exponential": (-(lag - 1) / decay).exp(),
                "power-law": power / power.max(),
                "power-function": (0.10 + 0.01 * (i - lag)).pow(alpha - 1),
            }[family]
            counts[i, :i] = apportioned(int(share * limit + 1e-9), weights)
        counts[i, i] = limit
    return counts


def mixed(tasks: int, limit: int, own: float) -> Counts:
    """In experience i a share `own` is of task i; the rest is of all others alike.

    Example:
        >>> mixed(3, 10, own=0.6).tolist()
        [[6, 2, 2], [2, 6, 2], [2, 2, 6]]
    """
    rows = []
    for i in range(tasks):
        weights = torch.full((tasks,), (1 - own) / max(1, tasks - 1), dtype=torch.float64)
        weights[i] = own if tasks > 1 else 1.0
        rows.append(apportioned(limit, weights))
    return torch.stack(rows)


# Classes whose boundaries blur.


def blurry(
    sizes: Int[Tensor, " classes"],
    experiences: int,
    separate: float,
    blur: float,
    stochastic: bool,
    generator: torch.Generator,
) -> Counts:
    """Some classes come in one experience alone, the others in all, most of them in one.

    Args:
        sizes: Examples of each class.
        experiences: How many.
        separate: Share of the classes that come in one experience alone (N of i-Blurry-N-M).
        blur: Share of the other classes' examples that comes elsewhere than in the experience where
            most of the class comes (M).
        stochastic: Whether experiences have random numbers of classes, and what comes elsewhere is
            drawn: every experience gives up a share `blur` of its examples of blurry classes, and
            gets as many back, drawn from what all gave up.
        generator: Draws the order of the classes, and the rest.

    Source: Koh et al., "Online continual learning on class incremental blurry task configuration
    with anytime inference" (2022); stochastic: Moon et al., "Online class incremental learning on
    stochastic blurry task boundary via mask and visual prompt tuning" (2023).
    """
    classes = len(sizes)
    order = torch.randperm(classes, generator=generator)
    apart = round(separate * classes)
    counts = torch.zeros(experiences, classes, dtype=torch.long)
    homes = torch.empty(classes, dtype=torch.long)
    for members, shift in ((order[:apart], 0), (order[apart:], apart)):
        if stochastic:
            homes[members] = torch.randint(experiences, (len(members),), generator=generator)
        else:  # in turn, the second kind going on where the first one ended
            homes[members] = (torch.arange(len(members)) + shift) % experiences
    if stochastic:  # none is left without a class
        first = torch.randperm(classes, generator=generator)[:experiences]
        homes[first] = torch.arange(len(first))
    counts[homes, torch.arange(classes)] = sizes
    blurred = order[apart:]
    if not len(blurred) or experiences == 1:
        return counts
    given = torch.zeros_like(counts)
    given[:, blurred] = (counts[:, blurred] * blur).round().long()
    kept = counts - given
    if stochastic:
        return kept + _dealt(given, generator)
    for place, member in enumerate(blurred.tolist()):
        home, number = int(homes[member]), int(given[:, member].sum())
        weights = torch.ones(experiences, dtype=torch.float64)
        weights[home] = 0
        # Who gets one more than others goes round, so that experiences stay alike.
        turned = apportioned(number, weights.roll(-place))
        kept[:, member] += turned.roll(place)
    return kept


def _dealt(given: Counts, generator: torch.Generator) -> Counts:
    """What all experiences gave up, drawn back by each as often as it gave."""
    seed = int(torch.randint(2**62, (), generator=generator))
    draw, pool = np.random.default_rng(seed), given.sum(0).numpy()
    rows = []
    for number in given.sum(1).tolist():
        taken = draw.multivariate_hypergeometric(pool, number, method="marginals")
        pool = pool - taken
        rows.append(torch.from_numpy(taken))
    return torch.stack(rows)


def gaussian(experiences: int, classes: int, limit: int, width: float) -> Counts:
    """Classes come and go in turn: each is likeliest at its own time, without any boundary.

    Class c has weight exp(-(t - m)^2 / (2 s^2)) at time t, with times and middles m evenly spread
    over the stream and s = `width` times the distance of two middles. Every experience has `limit`
    examples; what rounding keeps from a class it gets in a later one.

    Args:
        experiences: How many.
        classes: In order of their arrival.
        limit: Examples of an experience.
        width: In classes; the smaller, the sharper the boundaries.

    Source: Shanahan et al., "Encoders and ensembles for task-free continual learning" (2021).
    """
    times = (torch.arange(experiences, dtype=torch.float64) + 0.5) / experiences
    middles = (torch.arange(classes, dtype=torch.float64) + 0.5) / classes
    logs = -((times[:, None] - middles) * classes / width).square() / 2
    weights = (logs - logs.max(1, keepdim=True).values).exp()
    owed = torch.zeros(classes, dtype=torch.float64)
    return torch.stack([apportioned(limit, row, owed) for row in weights])


# Classes of unequal size, in a split.


def long_tailed(
    sizes: Int[Tensor, " classes"], factor: float, order: Int[Tensor, " classes"]
) -> Int[Tensor, " classes"]:
    """Examples left of each class: the k-th of C in `order` keeps factor^(k / (C - 1)) of them.

    At least one is kept.

    Source: Cui et al., "Class-balanced loss based on effective number of samples" (2019).

    Example:
        >>> long_tailed(torch.tensor([100, 100, 100]), 0.01, torch.tensor([0, 2, 1])).tolist()
        [100, 1, 10]
    """
    share = torch.empty(len(sizes), dtype=torch.float64)
    steps = torch.arange(len(sizes), dtype=torch.float64) / max(1, len(sizes) - 1)
    share[order] = factor**steps
    return (sizes * share).round().long().clamp(min=1)


def in_parts(sizes: Int[Tensor, " classes"], parts: Sequence[Int[Tensor, " members"]]) -> Counts:
    """Each part of the classes in an experience of its own, with all examples that `sizes` tells.

    Example:
        >>> in_parts(torch.tensor([5, 6, 7]), [torch.tensor([2]), torch.tensor([0, 1])]).tolist()
        [[0, 0, 7], [5, 6, 0]]
    """
    return presence(parts, len(sizes)) * sizes
