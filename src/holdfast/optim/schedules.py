"""Learning-rate schedules in closed form: a factor from the epoch alone, hence resumable."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

from holdfast.errors import UsageError
from holdfast.spec import parse_one

Schedule = Callable[[int, int], float]
"""From (epoch, epochs) to a factor on the learning rate."""


class StepSchedule(ABC):
    """A factor on the learning rate at every update.

    It is a closed form of where training is, so that it resumes anywhere: no state is kept.
    """

    @abstractmethod
    def factor(self, update: int, updates: int, life: int) -> float:
        """The factor at an update.

        Args:
            update: Within the experience, from 0.
            updates: In the experience, in all.
            life: Updates made over all experiences.
        """

    def __call__(self, epoch: int, epochs: int) -> float:
        raise TypeError(f"{type(self).__name__} goes by updates: ask its `factor`.")


def constant(epoch: int, epochs: int) -> float:
    """No change."""
    return 1.0


def cosine(epoch: int, epochs: int) -> float:
    """Half a cosine from 1 towards 0 over the epochs of an experience."""
    return 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def steps(*at: float, factor: float = 0.1) -> Schedule:
    """Multiply by `factor` at each of the given fractions of the epochs.

    Example:
        >>> halves = steps(0.5, 0.75, factor=0.1)
        >>> [round(halves(epoch, 4), 3) for epoch in range(4)]
        [1.0, 1.0, 0.1, 0.01]
    """

    def schedule(epoch: int, epochs: int) -> float:
        return factor ** sum(epoch >= fraction * epochs for fraction in at)

    return schedule


def build(text: str) -> Schedule:
    """A schedule from its spec: `constant`, `cosine` or `steps(0.5, 0.75, factor=0.1)`.

    Raises:
        UsageError: If there is no such schedule, or if an argument does not fit it.
    """
    spec = parse_one(text)
    if spec.name in ("constant", "cosine"):
        schedule = constant if spec.name == "constant" else cosine
        if spec.positional or spec.named:
            raise UsageError(f"The schedule {spec.name!r} takes no arguments; given: {text!r}.")
        return schedule
    if spec.name == "steps":
        numbers = (*spec.positional, *spec.named.values())
        if set(spec.named) - {"factor"} or not all(type(n) in (int, float) for n in numbers):
            raise UsageError(
                "steps takes fractions of the epochs and a factor, as in "
                f"steps(0.5, 0.75, factor=0.1); given: {text!r}."
            )
        return steps(*spec.positional, **spec.named)
    raise UsageError(
        f"There is no schedule {spec.name!r}. Accepted: constant, cosine, steps(0.5, factor=0.1)."
    )
