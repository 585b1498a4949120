"""How often what occurs when: matrices of counts, a row an experience, a column a group.

A group is a class, or a task. Such a matrix and a data set make a stream (`generator`). All that is
drawn here is drawn from the generator given, on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from math import comb
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from holdfast.errors import UsageError

Counts = Int[Tensor, "experiences groups"]

MEETINGS = 1_000_000
"""Subsets of classes that are written down at most."""


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
    else:  # more was given before than was due
        given = torch.where(whole > 0, left, torch.inf)
        whole[given.argsort(stable=True)[:-missing]] -= 1
    if owed is not None:
        owed.copy_(quota - whole)
    return whole.long()


# Which classes occur together, by the samplers of SCoLe.


@dataclass(frozen=True)
class Subsets:
    """What a sampler of classes goes by.

    Attributes:
        classes: How many there are.
        size: How many come together.
        experiences: How often.
        probabilities: Of the classes.
        damping: A class's probability is divided by it after each visit (`damped`).
        replaced: Chance that a class of the fixed order gives way to another (`cyclic`).
        meeting: Share of all subsets of `size` classes that may come (`restricted`).
        generator: Draws everything.
    """

    classes: int
    size: int
    experiences: int
    probabilities: Float[Tensor, " classes"]
    damping: float
    replaced: float
    meeting: float
    generator: torch.Generator

    def draw(self, probabilities: Tensor) -> Tensor:
        return torch.multinomial(probabilities, self.size, generator=self.generator)


def probabilities(
    classes: int, decrease: float, generator: torch.Generator
) -> Float[Tensor, " classes"]:
    """The chance of each class to occur: alike, or falling along a random order of the classes.

    p_c is in proportion to (1 - s c)^decrease for c = 0, 1, ..., with s = 0.05, or less where there
    are more than twenty classes.

    Source: Lesort et al., "Challenging common assumptions about catastrophic forgetting and
    knowledge accumulation" (2023).
    """
    falling = 1 - min(0.05, 1 / classes) * torch.arange(classes, dtype=torch.float64)
    weights = falling.pow(decrease)
    shuffled = weights[torch.randperm(classes, generator=generator)] if decrease else weights
    return shuffled / shuffled.sum()


def uniform(given: Subsets) -> list[Tensor]:
    """Classes without replacement, by their probabilities."""
    return [given.draw(given.probabilities) for _ in range(given.experiences)]


def damped(given: Subsets) -> list[Tensor]:
    """Likewise, each class the less probable the more often it has come."""
    chances, drawn = given.probabilities.clone(), []
    for _ in range(given.experiences):
        drawn.append(given.draw(chances))
        chances[drawn[-1]] /= given.damping
        chances /= chances.sum()
    return drawn


def cyclic(given: Subsets) -> list[Tensor]:
    """All subsets in a fixed order, again and again; each class gives way to another by chance."""
    count = min(given.experiences, comb(given.classes, given.size))
    fixed = list(islice(combinations(range(given.classes), given.size), count))
    drawn = []
    for turn in range(given.experiences):
        members = torch.tensor(fixed[turn % count])
        gone = torch.rand(given.size, generator=given.generator) < given.replaced
        others = torch.ones(given.classes)
        others[members] = 0
        if gone.any() and given.size < given.classes:
            number = min(int(gone.sum()), given.classes - given.size)
            members[gone.nonzero().flatten()[:number]] = torch.multinomial(
                others, number, generator=given.generator
            )
        drawn.append(members)
    return drawn


def restricted(given: Subsets) -> list[Tensor]:
    """A part of all subsets, drawn once; then one of these each time."""
    count = comb(given.classes, given.size)
    if count > MEETINGS:
        raise UsageError(
            f"There are {count:,} ways to choose {given.size} of {given.classes} classes; a part "
            f"of them can be taken up to {MEETINGS:,}."
        )
    allowed = torch.randperm(count, generator=given.generator)[: max(1, int(given.meeting * count))]
    subsets = torch.tensor(list(combinations(range(given.classes), given.size)))[allowed]
    turns = torch.randint(len(subsets), (given.experiences,), generator=given.generator)
    return list(subsets[turns])


def halves(given: Subsets) -> list[Tensor]:
    """One half of the classes in the first half of the stream, the other in the second."""
    first, second = _halved(given)
    middle = (given.experiences + 1) // 2
    return [given.draw(first if k < middle else second) for k in range(given.experiences)]


def retention(given: Subsets) -> list[Tensor]:
    """All classes in the first half of the stream, after it only half of them."""
    first, _ = _halved(given)
    middle = (given.experiences + 1) // 2
    return [
        given.draw(given.probabilities if k < middle else first) for k in range(given.experiences)
    ]


def disjoint(given: Subsets) -> list[Tensor]:
    """Every class once, then all again in the same order: class-incremental, in cycles."""
    order = torch.randperm(given.classes, generator=given.generator)
    parts = order.split(given.size)
    return [parts[k % len(parts)] for k in range(given.experiences)]


def everything(given: Subsets) -> list[Tensor]:
    """All classes each time: the same distribution throughout."""
    return [torch.arange(given.classes)] * given.experiences


SAMPLERS: dict[str, Callable[[Subsets], list[Tensor]]] = {
    "uniform": uniform,
    "damped": damped,
    "cyclic": cyclic,
    "restricted": restricted,
    "halves": halves,
    "retention": retention,
    "disjoint": disjoint,
    "all": everything,
}
BY_PROBABILITY = ("uniform", "damped", "halves", "retention")
"""Samplers that go by the classes' probabilities."""


def _halved(given: Subsets) -> tuple[Tensor, Tensor]:
    """The probabilities within either half of the classes."""
    if given.classes < 2 * given.size:
        raise UsageError(
            f"Half of {given.classes} classes are fewer than the {given.size} that come together."
        )
    order = torch.randperm(given.classes, generator=given.generator)
    parts = [torch.zeros_like(given.probabilities) for _ in range(2)]
    for part, members in zip(parts, order.tensor_split(2), strict=True):
        part[members] = given.probabilities[members]
    return parts[0], parts[1]


def presence(subsets: Sequence[Tensor], classes: int) -> Bool[Tensor, "experiences classes"]:
    """Which classes are in which subset."""
    here = torch.zeros(len(subsets), classes, dtype=torch.bool)
    for place, members in enumerate(subsets):
        here[place, members] = True
    return here


def entropy(chances: Float[Tensor, " classes"]) -> float:
    """Of a distribution over classes, as a share of what equal chances have.

    Example:
        >>> entropy(torch.tensor([0.5, 0.5])), entropy(torch.tensor([1.0, 0.0]))
        (1.0, 0.0)
    """
    entropies = -torch.special.xlogy(chances.double(), chances.double())
    return float(entropies.sum() / np.log(len(chances))) if len(chances) > 1 else 1.0


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

    Source: archana53, power-law environments for catastrophic interference; lags after Anderson and
    Schooler, "Reflections of the environment in memory" (1991).

    Differs from the paper: the numbers of the three families sum to exactly floor(share * limit),
    rounded by largest remainders; the public code rounds the factor down before it multiplies, and
    so gives each family another, smaller total.

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
