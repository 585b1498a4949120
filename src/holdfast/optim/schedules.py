"""Learning-rate schedules in closed form: a factor from where training is, hence resumable.

By epoch: `constant`, `cosine`, `steps` and `warm_restarts`. By update: those of `optim.stages`,
which say how every experience of a life is warmed up and decayed.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from holdfast.errors import UsageError, at_least, unknown
from holdfast.spec import Spec, bind, parse_one

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LambdaLR

Schedule = Callable[[int, int], float]
"""From (epoch, epochs) to a factor on the learning rate."""


class StepSchedule(ABC):
    """A factor on the learning rate at every update.

    It is a closed form of where training is, so that it resumes anywhere: no state is kept.
    """

    @abstractmethod
    def factor(self, update: int, updates: int, life: int, stage: int) -> float:
        """The factor at an update.

        Args:
            update: Within the experience, from 0.
            updates: In the experience, in all.
            life: Updates made over all experiences.
            stage: Number of the experience, from 0.
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


def warm_restarts(
    floor: float = 0.01, first: int = 1, growth: int = 2, warmup: int = 0
) -> Schedule:
    """A cosine from 1 to `floor` that begins again and again, each time for longer.

    Args:
        floor: What each cosine falls to, without reaching it.
        first: Epochs of the first cosine.
        growth: By which each is longer than the one before it.
        warmup: Epochs at a tenth before the first.

    Source: Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts" (2017).

    Example:
        >>> schedule = warm_restarts(floor=0.0, warmup=1)
        >>> [round(schedule(epoch, 8), 3) for epoch in range(8)]
        [0.1, 1.0, 1.0, 0.5, 1.0, 0.854, 0.5, 0.146]
    """
    if not 0 <= floor <= 1:
        raise UsageError(f"floor must be from 0 to 1; given: {floor}.")
    at_least(1, first=first, growth=growth)
    at_least(0, warmup=warmup)

    def schedule(epoch: int, epochs: int) -> float:
        if epoch < warmup:
            return 0.1
        place, length = epoch - warmup, first
        while place >= length:
            place, length = place - length, length * growth
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * place / length))

    return schedule


def lambda_lr(
    optimizer: Optimizer, schedule: StepSchedule, stages: int | Sequence[int]
) -> LambdaLR:
    """A schedule as PyTorch's own scheduler, for training loops that want one.

    `Trainer(..., optimizers=(optimizer, lambda_lr(optimizer, schedule, updates)))`.

    Args:
        optimizer: Whose learning rates are scaled.
        schedule: By update.
        stages: Updates of every experience in order, or of the only one. After the last the
            factor stays where that one ends.

    Raises:
        UsageError: If a stage has no update.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
        >>> scheduler = lambda_lr(optimizer, build("warmup_linear(warmup=2)"), 4)
        >>> rates = []
        >>> for _ in range(4):
        ...     rates += scheduler.get_last_lr()
        ...     optimizer.step(); scheduler.step()
        >>> rates
        [0.0, 1.0, 2.0, 1.0]
    """
    from torch.optim.lr_scheduler import LambdaLR

    lengths = [stages] if isinstance(stages, int) else list(stages)
    if not lengths or min(lengths) < 1:
        raise UsageError(f"Every stage needs at least one update; given: {stages!r}.")
    ends = list(accumulate(lengths))

    def at(life: int) -> float:
        stage = next((i for i, end in enumerate(ends) if life < end), len(ends) - 1)
        within = min(life - (ends[stage] - lengths[stage]), lengths[stage])
        return schedule.factor(within, lengths[stage], life, stage)

    return LambdaLR(optimizer, at)


NAMES = (
    "constant",
    "cosine",
    "steps",
    "warm_restarts",
    "warmup_constant",
    "warmup_linear",
    "warmup_cosine",
    "infinite",
)
"""What `build` accepts: the first four go by epoch, the others by update."""


def build(text: str) -> Schedule:
    """A schedule from its spec, such as `steps(0.5, 0.75, factor=0.1)` or `warmup_cosine`.

    Raises:
        UsageError: If there is no such schedule, or if an argument does not fit it.

    Example:
        >>> build("warmup_cosine(warmup=10, floor=0.1)").factor(10, 100, life=10, stage=0)
        1.0
    """
    spec = parse_one(text)
    if spec.name in ("constant", "cosine"):
        if spec.positional or spec.named:
            raise UsageError(f"The schedule {spec.name!r} takes no arguments; given: {text!r}.")
        return constant if spec.name == "constant" else cosine
    if spec.name == "steps":
        return _steps(spec, text)
    if spec.name not in NAMES:
        raise unknown("schedule", spec.name, NAMES)
    if spec.name == "warm_restarts":
        return warm_restarts(**bind(spec, warm_restarts, "schedule"))
    from holdfast.optim import stages

    made: dict[str, Callable[..., StepSchedule]] = {
        "warmup_constant": stages.warmup_constant,
        "warmup_linear": stages.warmup_linear,
        "warmup_cosine": stages.warmup_cosine,
        "infinite": stages.Infinite,
    }
    return made[spec.name](**bind(spec, made[spec.name], "schedule"))


def _steps(spec: Spec, text: str) -> Schedule:
    numbers = (*spec.positional, *spec.named.values())
    if set(spec.named) - {"factor"} or not all(type(n) in (int, float) for n in numbers):
        raise UsageError(
            "steps takes fractions of the epochs and a factor, as in "
            f"steps(0.5, 0.75, factor=0.1); given: {text!r}."
        )
    return steps(*spec.positional, **spec.named)
