"""Relearning: how fast what was unlearned comes back."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from holdfast.data import Table
from holdfast.errors import at_least
from holdfast.evaluation import mean_loss
from holdfast.learner import Learner, Observer
from holdfast.optim.adamw import adamw
from holdfast.stream import Experience, Stream


class _Looks(Observer):
    """Writes the loss down after every step, and ends after so many."""

    def __init__(self, table: Table, steps: int) -> None:
        self.table, self.steps = table, steps
        self.losses: list[float] = []

    def on_step(self, learner: Learner) -> None:
        self.losses.append(mean_loss(learner, self.table))
        learner.enough = learner.step >= self.steps


def relearn(
    model: Any,
    table: Table,
    *,
    steps: int = 10,
    lr: float = 1e-4,
    batch_size: int = 8,
    seed: int = 0,
) -> list[float]:
    """Train a copy of a model on what it has unlearned, and follow the loss on all of it.

    A model that only hides what it knows finds it again in a few steps, faster than one that never
    knew learns it.

    Args:
        model: Which stays as it is; of a `PeftModel` the adapter is trained.
        table: What was unlearned.
        steps: Updates.
        lr: Of AdamW, without warm-up.
        batch_size: Rows an update.
        seed: Of the order of rows: give all models that are compared the same.

    Returns:
        The loss before, and after every step, in nats a token.
    """
    at_least(1, steps=steps, batch_size=batch_size)
    copy = deepcopy(model)
    if not any(parameter.requires_grad for parameter in copy.parameters()):
        copy.requires_grad_(True)
    few = table.take(slice(0, 1))
    stream = Stream("relearning", [Experience(0, table, few, ())], "text", 0, ())
    epochs = -(-steps // max(1, -(-len(table) // batch_size)))
    learner = Learner(
        copy, optimizer=adamw(lr), batch_size=batch_size, epochs=epochs, clip=1.0, seed=seed,
        pretrained=True,
    )  # fmt: skip
    looks = _Looks(table, steps)
    learner.start(stream)
    looks.losses.append(mean_loss(learner, table))
    learner.learn(stream, [looks])
    return looks.losses


def steps_to(losses: list[float], target: float) -> int | None:
    """The first step after which the loss is at most `target`; None if it never is.

    Example:
        >>> steps_to([3.0, 2.0, 0.5], 1.0)
        2
    """
    return next((step for step, loss in enumerate(losses) if loss <= target), None)
