"""Schedules by update, for a life of several stages: warm-up, decay, and what a next stage does.

Every experience is a stage. All are closed forms of where training is, without state, and without
a jump between stages.

Source: Ibrahim et al., "Simple and scalable strategies to continually pre-train large language
models" (2024); Gupta et al., "Continual pre-training of large language models: how to (re)warm
your model?" (2023).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from holdfast.errors import UsageError, at_least
from holdfast.optim.schedules import StepSchedule

Decay = Literal["none", "linear", "cosine"]
Cooldown = Literal["cosine", "inverse_sqrt"]


@dataclass(frozen=True)
class Stages(StepSchedule):
    """Warm-up and decay of each stage, and whether later stages are warmed and decayed again.

    A stage of T updates rises linearly to its peak over W updates and falls from there to `floor`
    over the other T - W. A later stage begins where the one before it ended. Without `rewarm` it
    stays there; without `redecay` it stays at its peak.

    Args:
        decay: `"cosine"`, `"linear"` or `"none"`.
        warmup: W; below 1: as a share of T, rounded up.
        floor: Where a decay ends, as a factor on the learning rate.
        start: Where the first stage begins. A model with public weights has a stage behind it: give
            `floor`, if its training ended there.
        rewarm: Whether later stages rise again.
        redecay: Whether later stages fall again.
        peaks: Of every stage in order, the last for all that follow; None: 1.

    Raises:
        UsageError: If a number is out of range.

    Example:
        >>> schedule = Stages("linear", warmup=2, floor=0.5)
        >>> [schedule.factor(t, 6, t, stage=0) for t in range(6)]
        [0.0, 0.5, 1.0, 0.875, 0.75, 0.625]
        >>> [schedule.factor(t, 6, 6 + t, stage=1) for t in range(3)]
        [0.5, 0.75, 1.0]
    """

    decay: Decay = "cosine"
    warmup: float = 0.03
    floor: float = 0.1
    start: float = 0.0
    rewarm: bool = True
    redecay: bool = True
    peaks: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.decay not in get_args(Decay):
            raise UsageError(
                f"decay must be one of {', '.join(get_args(Decay))}; given: {self.decay!r}."
            )
        if self.warmup < 0 or (self.warmup > 1 and self.warmup != int(self.warmup)):
            raise UsageError(
                "warmup must be a whole number of updates, or a share of them below 1; "
                f"given: {self.warmup}."
            )
        _factors(floor=self.floor, start=self.start)
        if self.peaks is not None:
            given = self.peaks if isinstance(self.peaks, (list, tuple)) else ()
            if not given or not all(type(p) in (int, float) and p > 0 for p in given):
                raise UsageError(
                    "peaks must be factors above 0, one a stage, such as (1, 0.5); "
                    f"given: {self.peaks!r}."
                )

    def factor(self, update: int, updates: int, life: int, stage: int) -> float:
        first = self.end(stage - 1) if stage else self.start
        peak = self.peak(stage) if self.rewarm or not stage else first
        rise = self.rise(updates)
        if update < rise:
            return first + (peak - first) * update / rise
        if not self._falls(stage) or updates <= rise:
            return peak
        way = min(1.0, (update - rise) / (updates - rise))
        left = 1 - way if self.decay == "linear" else 0.5 * (1 + math.cos(math.pi * way))
        return self.floor + (peak - self.floor) * left

    def end(self, stage: int) -> float:
        """The factor that a stage comes to."""
        if self._falls(stage):
            return self.floor
        return self.peak(stage) if self.rewarm or not stage else self.end(0)

    def peak(self, stage: int) -> float:
        """The factor that a stage rises to."""
        return 1.0 if self.peaks is None else self.peaks[min(stage, len(self.peaks) - 1)]

    def rise(self, updates: int) -> int:
        """Updates of the warm-up in a stage of so many."""
        wanted = math.ceil(self.warmup * updates) if self.warmup < 1 else int(self.warmup)
        return min(wanted, updates)

    def _falls(self, stage: int) -> bool:
        return self.decay != "none" and (self.redecay or not stage)


def warmup_constant(
    warmup: float = 0.03, start: float = 0.0, peaks: Sequence[float] | None = None
) -> Stages:
    """A rise, and constant from there: `Stages` without decay."""
    return Stages("none", warmup, floor=0.0, start=start, peaks=peaks)


def warmup_linear(
    warmup: float = 0.03,
    floor: float = 0.0,
    start: float = 0.0,
    rewarm: bool = True,
    redecay: bool = True,
    peaks: Sequence[float] | None = None,
) -> Stages:
    """A rise, and a straight fall to `floor`; arguments as for `Stages`."""
    return Stages("linear", warmup, floor, start, rewarm, redecay, peaks)


def warmup_cosine(
    warmup: float = 0.03,
    floor: float = 0.1,
    start: float = 0.0,
    rewarm: bool = True,
    redecay: bool = True,
    peaks: Sequence[float] | None = None,
) -> Stages:
    """A rise, and half a cosine down to `floor`; arguments as for `Stages`."""
    return Stages("cosine", warmup, floor, start, rewarm, redecay, peaks)


@dataclass(frozen=True)
class Infinite(StepSchedule):
    """One schedule for a whole life, however long: nothing is warmed again.

    By updates over all experiences: from 0 to 1 over `warmup` updates; from there to `level` by
    update `cooldown`; constant, as long as data come; and, on a branch of which a model is to be
    delivered, from `level` down to `floor` geometrically over `over` updates from update `anneal`.

        cosine:        level + (1 - level) (1 + cos(pi s)) / 2
        inverse_sqrt:  1 + (level - 1) h(s) / h(1),   h(s) = 1 / sqrt(1 + alpha s) - 1
        annealing:     level (floor / level) ^ ((t - anneal) / over)

    Args:
        warmup: Updates of the rise.
        cooldown: Update at which the constant phase begins.
        level: The factor of the constant phase.
        floor: Where annealing ends.
        shape: Of the cool-down: `"cosine"` or `"inverse_sqrt"`.
        alpha: How fast the inverse square root falls at first.
        anneal: Update at which annealing begins; None: never.
        over: Updates of the annealing; after them the factor stays at `floor`.

    Raises:
        UsageError: If a number is out of range, or if annealing would begin before the constant
            phase.

    Differs from the paper: its level (about 0.55 of the peak) and the cool-down's length and
    `alpha` are read off its figures; they are arguments here.

    Example:
        >>> schedule = Infinite(warmup=2, cooldown=4, level=0.5, anneal=100, over=2)
        >>> [round(schedule.factor(0, 1, t, 0), 2) for t in (0, 1, 2, 3, 4, 99, 100, 101, 102)]
        [0.0, 0.5, 1.0, 0.75, 0.5, 0.5, 0.5, 0.22, 0.1]
    """

    warmup: int = 100
    cooldown: int = 1000
    level: float = 0.55
    floor: float = 0.1
    shape: Cooldown = "cosine"
    alpha: float = 10.0
    anneal: int | None = None
    over: int = 100

    def __post_init__(self) -> None:
        if self.shape not in get_args(Cooldown):
            raise UsageError(
                f"shape must be one of {', '.join(get_args(Cooldown))}; given: {self.shape!r}."
            )
        at_least(0, warmup=self.warmup)
        at_least(self.warmup, cooldown=self.cooldown)
        at_least(self.cooldown, anneal=self.anneal)
        at_least(1, over=self.over)
        _factors(level=self.level, floor=self.floor)
        for name, value in (("level", self.level), ("floor", self.floor), ("alpha", self.alpha)):
            if not value > 0:
                raise UsageError(f"{name} must be above 0; given: {value}.")

    def factor(self, update: int, updates: int, life: int, stage: int) -> float:
        if life < self.warmup:
            return life / self.warmup
        if life < self.cooldown:
            return self._cooled((life - self.warmup) / (self.cooldown - self.warmup))
        if self.anneal is None or life < self.anneal:
            return self.level
        way = min(1.0, (life - self.anneal) / self.over)
        return float(self.level * (self.floor / self.level) ** way)

    def annealed(self, anneal: int, over: int) -> Infinite:
        """The same schedule on a branch that is annealed from update `anneal` on."""
        return replace(self, anneal=anneal, over=over)

    def _cooled(self, way: float) -> float:
        if self.shape == "cosine":
            return self.level + (1 - self.level) * 0.5 * (1 + math.cos(math.pi * way))
        fallen = (1 / math.sqrt(1 + self.alpha * way) - 1) / (1 / math.sqrt(1 + self.alpha) - 1)
        return 1 + (self.level - 1) * fallen


def _factors(**given: float) -> None:
    for name, value in given.items():
        if not 0 <= value <= 1:
            raise UsageError(f"{name} must be in 0..1; given: {value}.")
