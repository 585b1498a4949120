"""Streams: what arrives, in order.

A `Stream` is a sequence of `Experience`s. An experience brings training data and says what a
method may know of it: its place, its classes and, in the task-incremental scenario, its task.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from holdfast.data import Table
from holdfast.errors import DataError

if TYPE_CHECKING:
    from holdfast.evaluation import Scorer

Scenario = Literal["class", "task", "domain", "text"]


def white_in(x: Tensor, told: float | None = None) -> float:
    """The value of white in raw images: as told, or else 255 in bytes and 1 in floats."""
    return told or (255.0 if x.dtype == torch.uint8 else 1.0)


@dataclass(frozen=True)
class Experience:
    """One part of a stream.

    Attributes:
        index: Its place in the stream, from 0.
        train: The examples to learn from: columns `x` and `y` for classification (and `task`
            where tasks are known), whatever the objective asks for otherwise.
        test: Held-out examples of the same kind.
        classes: The labels that occur in it, sorted; none where nothing is classified.
        name: For tables and figures.
        sets: Further data by role, for experiences that have more than one (a forget and a retain
            set, a guard set).
        epochs: Passes over its training data; None: as many as the learner makes. 0: none, for
            what a pre-trained model knows already.
    """

    index: int
    train: Table
    test: Table
    classes: tuple[int, ...]
    name: str = ""
    sets: Mapping[str, Table] = field(default_factory=dict)
    epochs: int | None = None


@dataclass(frozen=True)
class Stream:
    """Experiences in order, and what is common to them.

    Attributes:
        name: How the stream was asked for.
        experiences: In order of arrival.
        scenario: `"class"`: new classes, no task label at test; `"task"`: new classes, the task is
            known in training and at test; `"domain"`: the same classes under changing conditions;
            `"text"`: language, as tokens.
        classes: Number of classes over the whole stream; labels lie in `0 .. classes - 1`. Zero
            where nothing is classified.
        shape: Shape of one input, without the batch dimension.
        scale: `(mean, deviation)` of the raw inputs, by channel (of a vector: by feature) or for
            all, with which models standardise them.
        white: The value of white in raw images, where black is 0; None: 255 in bytes, 1 in floats.
        boundaries: Whether the learner is told where one experience ends and the next begins.
        labelled: Whether training examples carry labels.
        online: Whether each example may be seen only once (one epoch).
        class_names: Names by label, where known.
        past: Examples of what a pre-trained model already knows, where there are any.
        final: Whether nothing is learned after it, so that what a method would prepare for later
            experiences at the end of the last one can be left out.
        scorer: What scores the learner after each experience; None: its objective, on the test
            sets.
    """

    name: str
    experiences: Sequence[Experience]
    scenario: Scenario
    classes: int
    shape: tuple[int, ...]
    scale: tuple[tuple[float, ...], tuple[float, ...]] = ((0.0,), (1.0,))
    white: float | None = None
    boundaries: bool = True
    labelled: bool = True
    online: bool = False
    class_names: tuple[str, ...] = ()
    past: Table | None = None
    final: bool = False
    scorer: Scorer | None = None

    def __len__(self) -> int:
        return len(self.experiences)

    def __getitem__(self, index: int) -> Experience:
        return self.experiences[index]

    def __iter__(self) -> Iterator[Experience]:
        return iter(self.experiences)

    def seen_until(self, index: int) -> tuple[int, ...]:
        """The classes of experiences `0 .. index`, in order of their arrival."""
        order: dict[int, None] = {}
        for experience in self.experiences[: index + 1]:
            order.update(dict.fromkeys(experience.classes))
        return tuple(order)

    def with_tasks(self, own_classes: bool = False) -> Stream:
        """The task-incremental form: every example carries the index of its experience.

        Args:
            own_classes: Whether every experience gets classes, and so rows of the head, of its
                own, although others have the same ones: task t's class c becomes t * classes + c.
        """
        step = self.classes if own_classes else 0

        def label(table: Table, task: int) -> Table:
            column = torch.full((len(table),), task, device=table.device)
            labels = {"y": table["y"] + task * step} if step else {}
            return table.with_columns(task=column, **labels)

        experiences = [
            replace(
                e,
                train=label(e.train, e.index),
                test=label(e.test, e.index),
                classes=tuple(c + e.index * step for c in e.classes),
            )
            for e in self
        ]
        if not step:
            return replace(self, scenario="task", experiences=experiences)
        named = [f"{name}, task {e.index}" for e in self for name in self.class_names]
        return replace(
            self,
            scenario="task",
            experiences=experiences,
            classes=step * len(self),
            class_names=tuple(named),
        )

    def with_ids(self) -> Stream:
        """The same stream with a column `id`: every training example's place in the whole stream.

        Buffers then hold ids too, so that methods and studies can follow single examples.
        """
        starts = accumulate([0, *(len(experience.train) for experience in self)])
        experiences = [
            replace(e, train=e.train.with_columns(id=torch.arange(start, start + len(e.train))))
            for e, start in zip(self, starts, strict=False)
        ]
        return replace(self, experiences=experiences)

    def validated(self) -> Stream:
        """The stream itself, if it can be learned from.

        Raises:
            DataError: If an experience is empty, if a label is out of range, or if an input is NaN
                or infinite.
        """
        if not self.experiences:
            raise DataError(f"The stream {self.name!r} has no experiences.")
        for experience in self:
            for part, table in (("training", experience.train), ("test", experience.test)):
                where = f"experience {experience.index} of {self.name!r}"
                if not len(table):
                    raise DataError(f"The {part} set of {where} is empty.")
                for column in table.columns.values():
                    # A sum is not finite if any entry is not; only then look at each of them.
                    if column.is_floating_point() and not bool(column.sum().isfinite()):
                        rows = (~column.flatten(1).isfinite().all(1)).nonzero().flatten()
                        if len(rows):
                            raise DataError(
                                f"The {part} inputs of {where} hold NaN or infinity "
                                f"(first in row {int(rows[0])}, {len(rows)} rows in all)."
                            )
                if self.classes and "y" in table:  # neither where nothing is classified
                    low, high = int(table["y"].min()), int(table["y"].max())
                    if low < 0 or high >= self.classes:
                        raise DataError(
                            f"The {part} labels of {where} lie in {low}..{high}; "
                            f"accepted: 0..{self.classes - 1}."
                        )
        return self
