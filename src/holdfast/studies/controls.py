"""What every claim of less forgetting is held against: equal updates, equal new-task loss.

Whoever changes a model less forgets less, for no interesting reason. So a run keeps its whole way,
the loss on old and on new data every few updates, and two arms are compared where they have made
the same number of updates, and where they have learned the new task equally well. Plain training at
half the learning rate is an arm like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from holdfast.data import Table
from holdfast.evaluation import mean_loss
from holdfast.learner import Learner, Observer
from holdfast.studies.study import Results

Way = Sequence[Mapping[str, float]]
"""Points of a run in order: `update`, and a loss by the name of each watched table."""


class Watch(Observer):
    """Writes down losses on some tables as a learner learns, disturbing nothing.

    Args:
        tables: By name, such as `old` and `new`.
        every: Updates between points; the last update of an experience is always one.
    """

    def __init__(self, tables: Mapping[str, Table], every: int = 10) -> None:
        self.tables, self.every = dict(tables), every
        self.way: list[dict[str, float]] = []

    def look(self, learner: Learner) -> None:
        """Write a point down now, also before any training."""
        losses = {name: mean_loss(learner, table) for name, table in self.tables.items()}
        self.way.append({"update": float(learner.updates), **losses})

    def on_step(self, learner: Learner) -> None:
        if learner.step % self.every == 0 or learner.step == learner.planned:
            self.look(learner)


def reached(way: Way, target: float, new: str = "new", old: str = "old") -> float:
    """The old loss where the new one first comes down to `target`, linear between points.

    NaN if it never does.

    Example:
        >>> way = [{"old": 1.0, "new": 3.0}, {"old": 2.0, "new": 1.0}]
        >>> reached(way, 2.0)
        1.5
    """
    for before, after in zip(way, [*way[1:], None], strict=True):
        if before[new] <= target:
            return float(before[old])
        if after is not None and after[new] <= target:
            share = (before[new] - target) / (before[new] - after[new])
            return float(before[old] + share * (after[old] - before[old]))
    return float("nan")


def rises_at_equal_new_loss(one: Way, other: Way) -> tuple[float, float]:
    """How much the old loss has risen in each run when both have learned the new task as well.

    The new loss at which they are compared is the best that both of them reach.
    """
    target = max(min(p["new"] for p in one), min(p["new"] for p in other))
    return reached(one, target) - one[0]["old"], reached(other, target) - other[0]["old"]


def rises_at_equal_updates(one: Way, other: Way) -> tuple[float, float]:
    """How much the old loss has risen in each run after the shorter one's number of updates."""
    last = min(one[-1]["update"], other[-1]["update"])
    rises = []
    for way in (one, other):
        updates = [point["update"] for point in way]
        rises.append(float(np.interp(last, updates, [p["old"] for p in way])) - way[0]["old"])
    return rises[0], rises[1]


def cut_at_equal_new_loss(results: Results, arm: str, plain: str, key: str = "way") -> list[float]:
    """The share of plain training's forgetting that an arm avoids, at equal new-task loss.

    One number a seed: 1 - rise of the old loss in `arm` / rise in `plain`.
    """
    return _cuts(results, arm, plain, key, rises_at_equal_new_loss)


def cut_at_equal_updates(results: Results, arm: str, plain: str, key: str = "way") -> list[float]:
    """The same after equal numbers of updates."""
    return _cuts(results, arm, plain, key, rises_at_equal_updates)


def _cuts(results: Results, arm: str, plain: str, key: str, rises: Any) -> list[float]:
    cuts = []
    for run, other in zip(results.runs[arm], results.runs[plain], strict=True):
        mine, theirs = rises(run[key], other[key])
        cuts.append(1 - mine / theirs if theirs > 0 else float("nan"))
    return cuts
