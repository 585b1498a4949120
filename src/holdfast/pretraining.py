"""Continual pre-training: annealing on a branch, and what a stage forgot and learned.

Schedules are in `holdfast.optim.stages`, replay within the budget in
`holdfast.methods.replay.replay`; whether moments are kept between stages is said by
`Learner(optimizer_state=...)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from holdfast.data import Table
from holdfast.errors import UsageError, at_least
from holdfast.learner import Learner, Observer
from holdfast.optim.stages import Infinite


@contextmanager
def anneal_branch(learner: Learner, updates: int, table: Table | None = None) -> Iterator[Any]:
    """Inside it a model trained under an infinite schedule is annealed, ready to be delivered.

    The learner goes on from where it stands, moments and all, for so many updates at a rate that
    falls to the schedule's floor. Afterwards it is as it was before, to the bit, so that later
    experiences resume from before the annealing.

    Args:
        learner: Between experiences, with an `Infinite` schedule.
        updates: Of the annealing.
        table: What it is annealed on; None: the training examples of the latest experience.

    Yields:
        The annealed model. `learner.predict` and its test sets see it too.

    Raises:
        UsageError: If the learner has learned nothing, is within an experience, or has another
            schedule.

    Source: Ibrahim et al., "Simple and scalable strategies to continually pre-train large language
    models" (2024).

    Example:
        >>> from holdfast import Learner, models, streams
        >>> stream = streams.build("split-digits(limit=40, test_limit=10)")
        >>> learner = Learner(
        ...     models.build("mlp(width=8)", stream),
        ...     schedule=Infinite(warmup=2, cooldown=4),
        ...     optimizer_state="keep",
        ... )
        >>> record = learner.learn(stream)
        >>> made = learner.updates
        >>> with anneal_branch(learner, updates=3) as model:
        ...     print(learner.updates - made)
        3
        >>> learner.updates == made
        True
    """
    at_least(1, updates=updates)
    if learner.stream is None or not learner.index:
        raise UsageError("A branch is annealed after an experience; this learner has learned none.")
    if learner.batches is not None:
        raise UsageError(
            f"A branch is annealed between experiences; this learner is at step {learner.step} of "
            f"experience {learner.index}."
        )
    if not isinstance(learner.schedule, Infinite):
        raise UsageError(
            "Annealing on a branch ends an infinite schedule; this learner's is "
            f"{getattr(learner.schedule, '__name__', type(learner.schedule).__name__)}: give "
            "holdfast.optim.stages.Infinite(...)."
        )
    state = deepcopy(learner.state_dict())
    held = learner.schedule, learner.epochs, learner.step, learner.experience
    latest = learner.stream[learner.index - 1]
    examples = latest.train if table is None else table
    passes = learner.batch_size * learner.accumulate * updates
    enough = -(-passes // len(examples)) + 1  # epochs; the last is cut short
    try:
        with learner.chance.mine():
            learner.schedule = learner.schedule.annealed(learner.updates, updates)
            learner.index, learner.epochs = latest.index, enough
            _train(learner, replace(latest, train=examples, epochs=None), updates)
        yield learner.model
    finally:
        learner.schedule, learner.epochs, step, learner.experience = held
        _put_back(learner, state, step)


def _train(learner: Learner, experience: Any, updates: int) -> None:
    """An experience's training without what comes before and after in a life: no growth, no row
    of the matrix."""
    learner.experience = experience
    for part in learner.method.parts():
        part.begin(learner, experience)
    learner.step, learner.enough = 0, False
    learner.lay_out(experience)
    try:
        learner.train([_Enough(updates)])
        learner.check_losses()
        for part in learner.method.parts():
            part.end(learner, experience)
    except BaseException:
        for part in learner.method.parts():
            part.release(learner)
        raise
    learner.batches = None
    learner.index += 1


class _Enough(Observer):
    """Ends training after so many updates."""

    def __init__(self, updates: int) -> None:
        self.updates = updates

    def on_step(self, learner: Learner) -> None:
        learner.enough = learner.step >= self.updates


def _put_back(learner: Learner, state: Mapping[str, Any], step: int) -> None:
    learner.model.load_state_dict(state["model"])
    learner.method.load_state_dict(state["method"])
    if state["optimizer"] is not None:
        learner.optimizer.load_state_dict(state["optimizer"])
    learner.generator.set_state(state["generator"])
    learner.chance.load_state_dict(state["chance"])
    learner.meter.load_state_dict(state["meter"])
    learner.record = type(learner.record).from_dict(state["record"])
    learner.index, learner.updates = state["index"], state["updates"]
    learner.step, learner.enough, learner.batches = step, state["enough"], None


@dataclass(frozen=True)
class AdaptationForgetting:
    """What a stage did to the loss on old and on new data, in nats a token.

    Attributes:
        old_before: On old data, when it began.
        old_after: When it ended.
        new_before: On new data, when it began.
        new_after: When it ended.
        transient: The highest loss on old data along the way, minus that before: what re-warming
            does, even where it is mended in the end.
    """

    old_before: float
    old_after: float
    new_before: float
    new_after: float
    transient: float

    @property
    def forgetting(self) -> float:
        """Rise of the loss on old data."""
        return self.old_after - self.old_before

    @property
    def adaptation(self) -> float:
        """Fall of the loss on new data."""
        return self.new_before - self.new_after


def adaptation_forgetting(
    curves: Sequence[Mapping[str, float]], old: str = "old", new: str = "new"
) -> AdaptationForgetting:
    """What a stage forgot and what it learned, from losses looked at along its way.

    Args:
        curves: A loss by name at every look, in order; the first from before the stage.
        old: Name of the loss on what was known.
        new: Name of the loss on what is learned.

    Raises:
        UsageError: If there are fewer than two looks, or a name is missing.

    Example:
        >>> way = [{"old": 2.0, "new": 4.0}, {"old": 3.0, "new": 3.0}, {"old": 2.5, "new": 1.0}]
        >>> told = adaptation_forgetting(way)
        >>> told.forgetting, told.adaptation, told.transient
        (0.5, 3.0, 1.0)
    """
    if len(curves) < 2:
        raise UsageError(
            f"A stage is judged by its losses before and after; {len(curves)} looks were given."
        )
    for name in (old, new):
        if any(name not in point for point in curves):
            raise UsageError(f"A look has no loss named {name!r}; it has: {', '.join(curves[0])}.")
    first, last = curves[0], curves[-1]
    return AdaptationForgetting(
        old_before=first[old],
        old_after=last[old],
        new_before=first[new],
        new_after=last[new],
        transient=max(point[old] for point in curves) - first[old],
    )
