"""Which classes occur together, experience by experience: the samplers of SCoLe.

Source: Lesort et al., "Challenging common assumptions about catastrophic forgetting and knowledge
accumulation" (2023).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.errors import UsageError

MEETINGS = 1_000_000
"""Subsets of classes that are written down at most."""


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

    p_c is in proportion to (1 - s c)^decrease for c = 0, 1, ..., with s = 0.05, or 1 by the number
    of classes where there are more than twenty.
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
    """All subsets in a fixed order, again and again; each class gives way to another by chance.

    Where there are more subsets than experiences the order is drawn, so that no class comes first.
    """
    count = _written_down(given)
    fixed = torch.tensor(list(combinations(range(given.classes), given.size)))
    if count > given.experiences:
        fixed = fixed[torch.randperm(count, generator=given.generator)]
    drawn = []
    for turn in range(given.experiences):
        members = fixed[turn % count].clone()
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
    count = _written_down(given)
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


def _written_down(given: Subsets) -> int:
    """How many subsets there are, if they can be written down."""
    count = comb(given.classes, given.size)
    if count > MEETINGS:
        raise UsageError(
            f"There are {count:,} ways to choose {given.size} of {given.classes} classes; "
            f"'cyclic' and 'restricted' go up to {MEETINGS:,}."
        )
    return count


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


def entropy(chances: Float[Tensor, " classes"]) -> float:
    """Of a distribution over classes, as a share of what equal chances have.

    Example:
        >>> entropy(torch.tensor([0.5, 0.5])), entropy(torch.tensor([1.0, 0.0]))
        (1.0, 0.0)
    """
    entropies = -torch.special.xlogy(chances.double(), chances.double())
    return float(entropies.sum() / np.log(len(chances))) if len(chances) > 1 else 1.0
