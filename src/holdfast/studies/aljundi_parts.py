"""Parts of the study of Aljundi's thesis: its streams, and an ablation of task-free learning."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast.data import Table
from holdfast.methods.penalties.task_free import TaskFree
from holdfast.stream import Experience, Stream
from holdfast.streams.source import scale_of
from holdfast.streams.sources import SOURCES

if TYPE_CHECKING:
    from holdfast.learner import Learner

WORLDS = ("mnist", "fashion-mnist", "digits")
CLASSES = 10
"""Of each world."""


class KnownBoundaries(TaskFree):
    """Task-free learning that is told where experiences end, and consolidates there alone."""

    def look(self, learner: Learner, loss: Tensor) -> None: ...

    def end(self, learner: Learner, experience: Experience) -> None:
        self.hold(learner)


def worlds(seed: int, rows: int = 2000, test_rows: int = 500) -> Stream:
    """Three data sets one after another, each with ten classes of its own, in an order by seed.

    Args:
        seed: Draws the order and the examples.
        rows: Training examples of each, at most.
        test_rows: Likewise, test examples.
    """
    generator = torch.Generator().manual_seed(seed)
    experiences = []
    for index, place in enumerate(torch.randperm(len(WORLDS), generator=generator).tolist()):
        source = SOURCES[WORLDS[place]][0]()
        train, test = (
            _part(table, index * CLASSES, most, generator)
            for table, most in ((source.train, rows), (source.test, test_rows))
        )
        classes = tuple(range(index * CLASSES, (index + 1) * CLASSES))
        experiences.append(Experience(index, train, test, classes, WORLDS[place]))
    return Stream(
        name="worlds",
        experiences=experiences,
        scenario="class",
        classes=CLASSES * len(WORLDS),
        shape=(1, 28, 28),
        scale=scale_of(torch.cat([e.train["x"] for e in experiences])),
    )


def _part(table: Table, first: int, most: int, generator: torch.Generator) -> Table:
    """Some examples as pictures of 28x28 from 0 to 1, their classes from `first` on."""
    few = table.take(torch.randperm(len(table), generator=generator)[:most])
    x = few["x"].float()
    x = x / (255.0 if x.max() > 16 else 16.0 if x.max() > 1 else 1.0)
    if x.shape[-1] != 28:
        x = F.interpolate(x, size=(28, 28), mode="bilinear")
    return Table({"x": x, "y": few["y"] + first})


def unequal(stream: Stream, large: int, share: int = 10) -> Stream:
    """The stream with every experience but one cut down to a part of its examples."""
    cut = [
        e if e.index == large else replace(e, train=e.train.take(slice(0, len(e.train) // share)))
        for e in stream
    ]
    return replace(stream, experiences=cut)


def unbounded(stream: Stream) -> Stream:
    """The stream online, without telling where its experiences end."""
    return replace(stream, boundaries=False, online=True)
