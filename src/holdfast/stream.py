"""Streams: what arrives, in order.

A `Stream` is a sequence of `Experience`s. An experience brings training data and says what a
method may know of it: its place, its classes and, in the task-incremental scenario, its task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, ClassVar, Literal, overload

import torch
from torch import Tensor

from holdfast.data import UNLABELLED, Table
from holdfast.errors import DataError, at_least

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
        ordered: Whether its training examples come in the order in which they stand, in every
            epoch, instead of shuffled; a method that trains on another choice of examples shuffles
            them.
    """

    index: int
    train: Table
    test: Table
    classes: tuple[int, ...]
    name: str = ""
    sets: Mapping[str, Table] = field(default_factory=dict)
    epochs: int | None = None
    ordered: bool = False


class Experiences(Sequence[Experience]):
    """Experiences made when they are asked for, so that a thousand take no more room than one.

    Args:
        length: How many.
        make: From an index to the experience, each time the same.
    """

    def __init__(self, length: int, make: Callable[[int], Experience]) -> None:
        self.length, self.make = length, make

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> Experience: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Experience]: ...

    def __getitem__(self, index: int | slice) -> Experience | Sequence[Experience]:
        places = range(self.length)[index]  # as a list counts, from either end
        return self.make(places) if isinstance(places, int) else [self.make(i) for i in places]


@dataclass(frozen=True)
class TestSet:
    """Held-out examples by which a stream as a whole is scored.

    Attributes:
        name: For tables and figures.
        table: The examples.
        since: The first experience that brings what is tested; the number of experiences, if none
            does.
    """

    __test__: ClassVar[bool] = False

    name: str
    table: Table
    since: int = 0


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
        semi_labelled: Whether some of them do not: their `y` is -100. They are left out for methods
            that do not say that they take them (`Method.takes_unlabelled`).
        online: Whether each example may be seen only once (one epoch).
        class_names: Names by label, where known.
        past: Examples of what a pre-trained model already knows, where there are any.
        final: Whether nothing is learned after it, so that what a method would prepare for later
            experiences at the end of the last one can be left out.
        scorer: What scores the learner after each experience; None: its objective, on the test
            sets.
        tests: The test sets, where they are not those of the experiences, one for each: in a
            stream whose classes come again, one a class.
        evaluations: After which experiences the test sets are scored, ascending, the last among
            them; none given: after each.
        costs: What was spent to make it, by name, which is to stand among a run's costs.
        tokens: Of which encoder (`holdfast.models.sentences`) the inputs are tokens, rows filled up
            with -1; None: they are none.
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
    semi_labelled: bool = False
    online: bool = False
    class_names: tuple[str, ...] = ()
    past: Table | None = None
    final: bool = False
    scorer: Scorer | None = None
    tests: tuple[TestSet, ...] = ()
    evaluations: tuple[int, ...] = ()
    costs: Mapping[str, float] = field(default_factory=dict)
    tokens: str | None = None

    def __len__(self) -> int:
        return len(self.experiences)

    def __getitem__(self, index: int) -> Experience:
        return self.experiences[index]

    def __iter__(self) -> Iterator[Experience]:
        return iter(self.experiences)

    def seen_until(self, index: int) -> tuple[int, ...]:
        """The classes of experiences `0 .. index`, in order of their arrival."""
        order, counts = self._arrivals
        return order[: counts[min(index + 1, len(counts) - 1)]] if index >= 0 else ()

    @cached_property
    def _arrivals(self) -> tuple[tuple[int, ...], list[int]]:
        """All classes in order of arrival, and how many there are before each experience.

        Gone through once, so that an experience costs the same however many there were before it.
        """
        order: dict[int, None] = {}
        counts = [0]
        for experience in self.experiences:
            order.update(dict.fromkeys(experience.classes))
            counts.append(len(order))
        return tuple(order), counts

    def evaluated(self, index: int) -> bool:
        """Whether the test sets are scored after an experience."""
        return not self.evaluations or index in self._evaluations

    @cached_property
    def _evaluations(self) -> frozenset[int]:
        return frozenset(self.evaluations)

    def labelled_only(self) -> Stream:
        """The stream without the training examples that have no label.

        Raises:
            DataError: If an experience has none with a label.
        """
        for experience in self:
            if not bool((experience.train["y"] != UNLABELLED).any()):
                raise DataError(
                    f"Experience {experience.index} of {self.name!r} has no example with a label."
                )

        def make(index: int) -> Experience:
            experience = self.experiences[index]
            train = experience.train.where(experience.train["y"] != UNLABELLED)
            return replace(experience, train=train)

        return replace(self, experiences=Experiences(len(self), make), semi_labelled=False)

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
        if self.evaluations and (
            self.evaluations[-1] != len(self) - 1
            or any(a >= b for a, b in pairwise((-1, *self.evaluations)))
        ):
            raise DataError(
                f"The evaluations of {self.name!r} must be experiences in ascending order, "
                f"{len(self) - 1} the last; given: {self.evaluations}."
            )
        sound: list[Table] = []  # as a whole, so that views of them need not be looked at
        for experience in self:
            where = f"of experience {experience.index} of {self.name!r}"
            self._check(experience.train, "training", where, sound, self.semi_labelled)
            self._check(experience.test, "test", where, sound)
        for test in self.tests:
            self._check(test.table, "test", f"for {test.name!r} of {self.name!r}", sound)
        return self

    def _check(
        self, table: Table, part: str, where: str, sound: list[Table], semi_labelled: bool = False
    ) -> None:
        if not len(table):
            raise DataError(f"The {part} set {where} is empty.")
        shared = table.whole is not table
        if shared and any(table.whole is one for one in sound):
            return
        if shared and not self._wrong(table.whole, semi_labelled):
            sound.append(table.whole)
        elif found := self._wrong(table, semi_labelled):
            what, how = found
            raise DataError(f"The {part} {what} {where} {how}")

    def _wrong(self, table: Table, semi_labelled: bool) -> tuple[str, str] | None:
        """What a table has that cannot be learned from, and what is wrong with it."""
        for column in table.columns.values():
            # A sum is not finite if any entry is not; only then look at each of them.
            if column.is_floating_point() and not bool(column.sum().isfinite()):
                rows = (~column.flatten(1).isfinite().all(1)).nonzero().flatten()
                if len(rows):
                    first = f"first in row {int(rows[0])}, {len(rows)} rows in all"
                    return "inputs", f"hold NaN or infinity ({first})."
        if self.classes and "y" in table:  # neither where nothing is classified
            y = table["y"]
            if semi_labelled:
                y = y[y != UNLABELLED]
            low, high = (int(y.min()), int(y.max())) if len(y) else (0, 0)
            if low < 0 or high >= self.classes:
                return "labels", f"lie in {low}..{high}; accepted: 0..{self.classes - 1}."
        return None


def spread(count: int, evaluations: int | None) -> tuple[int, ...]:
    """So many of `count` experiences, evenly spread, the last among them; none if all would be.

    Raises:
        UsageError: If `evaluations` is below 1.

    Example:
        >>> spread(10, 4)
        (1, 4, 6, 9)
        >>> spread(4, 10)
        ()
    """
    at_least(1, evaluations=evaluations)
    if evaluations is None or evaluations >= count:
        return ()
    return tuple((place + 1) * count // evaluations - 1 for place in range(evaluations))
