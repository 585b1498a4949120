"""What was kept: scores of every test set, without side effects."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import nn

from holdfast.data import Batch, Table
from holdfast.models.norms import by_batch
from holdfast.stream import Stream

if TYPE_CHECKING:
    from holdfast.learner import Learner


@dataclass
class Record:
    """What a run leaves: scores, and what they cost.

    Attributes:
        scenario: Of the stream: `"class"`, `"task"`, `"domain"` or `"text"`.
        names: Of the experiences.
        steps: Training steps made in each experience.
        initial: Score on every test set before any training.
        matrix: `matrix[i][j]`: score on test set j after experience i, in the stream's scenario.
        task_matrix: The same with the task known.
        measures: Further numbers by name, `measures["loss"][i][j]`: on test set j, in row 0 before
            any training, in row i + 1 after experience i.
        curve: Continual evaluation: `{"experience", "step", "scores"}` in order.
        cost: `seconds`, `flops`, `steps`, `peak_memory_bytes`, `method_bytes`; of
            `holdfast.footprint`, `model_bytes`, `example_bytes` (of how many: `examples`),
            `deployed_bytes` and `whole_bytes`; where a method does more than steps, what that took:
            `apart_seconds`, `apart_flops`; of a stream of kept features, also `feature_seconds` and
            `feature_bytes`.
        notes: What methods wrote down, with `experience` and `step`.
        tests: Names of the test sets, where they are not those of the experiences.
        since: The first experience that brings what each test set tests, where that is not the
            experience of the same number.
        after: The experience after which each row was measured, where that was not after each.
    """

    scenario: str = ""
    names: list[str] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    initial: list[float] = field(default_factory=list)
    matrix: list[list[float]] = field(default_factory=list)
    task_matrix: list[list[float]] = field(default_factory=list)
    measures: dict[str, list[list[float]]] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)
    cost: dict[str, float] = field(default_factory=dict)
    notes: list[dict[str, Any]] = field(default_factory=list)
    tests: list[str] = field(default_factory=list)
    since: list[int] = field(default_factory=list)
    after: list[int] = field(default_factory=list)

    @property
    def experiences(self) -> int:
        """How many there are; where they have no names, how many have been measured."""
        return max(len(self.names), len(self.matrix))

    @property
    def measured(self) -> list[int]:
        """The experience after which each row of the matrix was measured."""
        return self.after or list(range(len(self.matrix)))

    @property
    def met(self) -> list[int]:
        """The row of the matrix from which each test set has been met; past the last, if never."""
        tests = len(self.matrix[0]) if self.matrix else 0
        measured = self.measured
        return [bisect_left(measured, since) for since in self.since or range(tests)]

    def seen_so_far(self, row: int = -1) -> float:
        """Mean score, in a row of the matrix, on the test sets met by then; NaN if none is."""
        place = row % len(self.matrix)
        seen = [s for s, met in zip(self.matrix[place], self.met, strict=True) if met <= place]
        return sum(seen) / len(seen) if seen else float("nan")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(state: Mapping[str, Any]) -> Record:
        return Record(**state)


class Scores(NamedTuple):
    """One score per test set: in the stream's own scenario, and with the task known.

    `measures` holds further numbers by name, likewise one per test set.
    """

    plain: list[float]
    task: list[float]
    measures: dict[str, list[float]] = {}  # noqa: RUF012 (never written to)


class Scorer(Protocol):
    """Anything that scores a learner on every test set of a stream, leaving it as it was."""

    def score(self, learner: Learner) -> Scores: ...

    def subset(self, examples: int, seed: int) -> Scorer:
        """The same on at most so many examples a test set."""
        ...


@contextmanager
def undisturbed(*modules: nn.Module, device: torch.device | None = None) -> Iterator[None]:
    """Evaluation mode, no gradients; afterwards modes and random states are as before."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    cuda = device is not None and device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []), torch.no_grad():
        for module in modules:
            module.eval()
        try:
            yield
        finally:
            for part, training in modes:
                part.training = training


@contextmanager
def in_passing(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients, for a look at the model in the midst of a training step.

    As `undisturbed`, at a fraction of its cost, which would be felt at every step: modes are set
    where they are read, without `eval()`, and random states are left to themselves, since nothing
    is drawn in evaluation mode.
    """
    states = [vars(part) for part in model.modules() if part.training]
    for state in states:  # a module's own assignment looks through all its tensors first
        state["training"] = False
    try:
        with torch.no_grad():
            yield
    finally:
        for state in states:
            state["training"] = True


TOKENS_AT_ONCE = 4096
"""In a forward pass of evaluation: each has an output for every word of the vocabulary."""


def mean_loss(learner: Learner, table: Table) -> float:
    """Mean loss over the predictions that a table asks for, leaving the learner as it was."""
    rows = _rows_at_once(table)
    total = torch.zeros((), device=learner.device)
    count = torch.zeros((), device=learner.device)
    with learner.serving(), undisturbed(learner.model, learner.method, device=learner.device):
        for batch in table.to(learner.device).chunks(rows):
            weight = learner.objective.weight(batch)
            total += learner.objective.loss(learner.predict(batch), batch) * weight
            count += weight
    return float(total / count)


def _rows_at_once(table: Table) -> int:
    width = table["input_ids"].shape[1] if "input_ids" in table else 4
    return max(1, TOKENS_AT_ONCE // width)


class TestSets:
    """All test sets of a stream as one table, scored in one pass.

    Args:
        stream: Whose test sets are scored: its own, if it has any, or those of its experiences.
        subset: At most this many examples of every test set, drawn once (`None`: all).
        seed: Draws the subset.
        rows: Examples a forward pass; None: 1024, or as many as make 4096 tokens.
    """

    __test__ = False

    def __init__(
        self, stream: Stream, subset: int | None = None, seed: int = 0, rows: int | None = None
    ) -> None:
        self.stream = stream
        # The test set of an experience is that of its task; others have no task to be known.
        self.column = "test_set" if stream.tests else "task"
        generator = torch.Generator().manual_seed(seed)
        tables = []
        tests = [test.table for test in stream.tests] or [e.test for e in stream]
        for place, test in enumerate(tests):
            if subset is not None and len(test) > subset:
                chosen = torch.randperm(len(test), generator=generator)[:subset].sort().values
                test = test.take(chosen.to(test.device))
            number = torch.full((len(test),), place, device=test.device)
            tables.append(test.with_columns(**{self.column: number}))
        self.sizes = torch.tensor([float(len(table)) for table in tables])
        self.table = Table.concat(tables)
        self.rows = rows or _rows_at_once(self.table)

    def subset(self, examples: int, seed: int) -> TestSets:
        """The same with at most so many examples a test set."""
        return TestSets(self.stream, examples, seed)

    def score(self, learner: Learner) -> Scores:
        """The mean score of every test set, leaving the learner as it was."""
        if self.table.device != learner.device:
            self.table, self.sizes = self.table.to(learner.device), self.sizes.to(learner.device)
        plain, task = torch.zeros_like(self.sizes), torch.zeros_like(self.sizes)
        further: dict[str, torch.Tensor] = {}
        objective = learner.objective
        with learner.serving(), undisturbed(learner.model, learner.method, device=learner.device):
            for batch in self._batches(by_batch(learner.model)):
                outputs = learner.predict(batch)
                number = batch[self.column]
                scores = objective.scores(outputs, batch)
                plain.index_add_(0, number, scores)
                if self.column == "task":
                    scores = objective.task_scores(outputs, batch)
                task.index_add_(0, number, scores)
                for name, values in objective.measures(outputs, batch).items():
                    total = further.setdefault(name, torch.zeros_like(self.sizes))
                    total.index_add_(0, number, values)
        return Scores(
            (plain / self.sizes).tolist(),
            (task / self.sizes).tolist(),
            {name: (total / self.sizes).tolist() for name, total in further.items()},
        )

    def _batches(self, apart: bool) -> Iterator[Batch]:
        """All test sets in a row, or `apart`: none of two, which would share their statistics."""
        if not apart:
            yield from self.table.chunks(self.rows)
            return
        start = 0
        for size in self.sizes.int().tolist():
            yield from self.table.take(slice(start, start + size)).chunks(self.rows)
            start += size
