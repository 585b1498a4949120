"""TRACE's measures of a sequence: its performance, its backward transfer, and three deltas.

Deltas compare the model after t tasks with the aligned model at the start, never with the one
before the last task.

Source: Wang et al., "TRACE" (2023).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from holdfast.checkpoint import write_atomically
from holdfast.data import Batch
from holdfast.errors import UsageError
from holdfast.evaluation import Scores, undisturbed
from holdfast.language.generate import generate
from holdfast.language.objective import CausalLM
from holdfast.streams.language import python
from holdfast.streams.language.answers import TaskScorer
from holdfast.streams.language.corpora import corpora

if TYPE_CHECKING:
    from holdfast.learner import Learner

Suite = Callable[[Any, Any], float]
"""From model and tokenizer to a score of general ability, 0 to 1."""

Judge = Callable[[str, str, str], float]
"""From a prompt, the starting model's answer and the tuned one's to 1 (the tuned one wins), 0 (tie)
or -1 (it loses)."""


def overall_performance(matrix: ArrayLike, after: int | None = None) -> float:
    """OP: the mean score on the tasks learned so far.

    Args:
        matrix: `matrix[t, i]`: score on task i after task t.
        after: So many tasks; None: all.
    """
    r, t = _until(matrix, after)
    return float(r[t - 1, :t].mean())


def backward_transfer(
    matrix: ArrayLike, after: int | None = None, divisor: Literal["t", "t-1"] = "t"
) -> float:
    """BWT: what tasks have gained since they were learned; negative where they are forgotten.

    Args:
        matrix: As in `overall_performance`.
        after: So many tasks; None: all.
        divisor: `"t"` as in the paper, or `"t-1"`, the number of earlier tasks.
    """
    r, t = _until(matrix, after)
    if divisor not in ("t", "t-1"):
        raise UsageError(f"divisor must be 't' or 't-1'; given: {divisor!r}.")
    if t == 1:
        return 0.0
    gained = sum(r[t - 1, i] - r[i, i] for i in range(t - 1))
    return float(gained / (t if divisor == "t" else t - 1))


def general_delta(rows: ArrayLike, after: int | None = None) -> float:
    """The mean change of general abilities.

    Args:
        rows: `rows[0]`: scores of the starting model, `rows[t]`: after t tasks; one column a suite.
        after: So many tasks; None: all.
    """
    found = np.asarray(rows, dtype=float)
    t = len(found) - 1 if after is None else after
    if found.ndim != 2 or not 0 <= t < len(found):
        raise UsageError(
            f"There are rows for 0 to {len(found) - 1} tasks, one column a suite; asked for: {t}."
        )
    return float((found[t] - found[0]).mean())


@dataclass(frozen=True)
class Judged:
    """Shares of prompts on which the tuned model's answer wins, ties or loses."""

    win: float
    tie: float
    lose: float

    @property
    def delta(self) -> float:
        """Wins less losses."""
        return self.win - self.lose


def judged(
    judge: Judge, prompts: Sequence[str], first: Sequence[str], tuned: Sequence[str]
) -> Judged:
    """What a judge makes of two models' answers."""
    verdicts = [judge(p, a, b) for p, a, b in zip(prompts, first, tuned, strict=True)]
    strange = [v for v in verdicts if v not in (-1, 0, 1)]
    if strange or not verdicts:
        raise UsageError(f"A judge answers 1, 0 or -1 to each prompt; given: {strange[:3]}.")
    count = len(verdicts)
    return Judged(*(sum(v == which for v in verdicts) / count for which in (1, 0, -1)))


def mini_suite(tokenizer: Any, rows: int = 32, length: int = 128) -> dict[str, Suite]:
    """General abilities for models too small for benchmarks: held-out documentation of Python.

    `tokens`: the share of tokens that are the likeliest; `likelihood`: the geometric mean of their
    probabilities.

    Args:
        tokenizer: Of the model.
        rows: Of text.
        length: Tokens of each.
    """
    table = corpora(
        [("docs", python.documentation)], tokenizer, length=length, limit=1, test_limit=rows
    )[0].test
    objective = CausalLM()

    def mean(model: Any, of: Callable[[Tensor, Batch], Tensor]) -> float:
        with undisturbed(model, device=model.device):
            parts = [
                of(objective.forward(model, batch), batch)
                for batch in table.to(model.device).chunks(16)
            ]
        return float(torch.cat(parts).mean())

    return {
        "tokens": lambda model, _: mean(model, objective.scores),
        "likelihood": lambda model, _: math.exp(-mean(model, objective.losses)),
    }


class TraceEvaluator:
    """A scorer that adds general abilities and pairwise judgements to a stream's scores.

    It records `general` (a column a suite), `instruction` and `safety` (a column a prompt set: wins
    less losses), before any training and after each task. Every cell is kept in a file as soon as
    it is there, so that an evaluation that is killed goes on where it was; the starting model's
    answers are kept there too, for the judge.

    Args:
        scorer: Of the stream.
        tokenizer: Of the model.
        folder: Where cells are kept; one a run.
        suites: General abilities by name.
        helpful: Sets of prompts by name, for the following of instructions.
        harmful: Likewise, for safety.
        judge: Compares answers; needed where there are prompts.
        new_tokens: The longest answer to a prompt.

    Raises:
        UsageError: If there are prompts and no judge.

    Differs from the paper: the judge is whatever is given, not GPT-4; a mean over prompt sets is
    left to the reader.
    """

    def __init__(
        self,
        scorer: TaskScorer,
        tokenizer: Any,
        folder: Path,
        *,
        suites: Mapping[str, Suite] | None = None,
        helpful: Mapping[str, Sequence[str]] | None = None,
        harmful: Mapping[str, Sequence[str]] | None = None,
        judge: Judge | None = None,
        new_tokens: int = 64,
    ) -> None:
        self.scorer, self.tokenizer, self.folder = scorer, tokenizer, folder
        self.suites, self.judge, self.new_tokens = dict(suites or {}), judge, new_tokens
        self.asked = {"instruction": dict(helpful or {}), "safety": dict(harmful or {})}
        if judge is None and any(self.asked.values()):
            raise UsageError("Prompts for instruction following or safety need a judge.")

    def subset(self, examples: int, seed: int) -> TaskScorer:
        """The tasks' own scores on fewer examples."""
        return self.scorer.subset(examples, seed)

    def score(self, learner: Learner) -> Scores:
        """Everything, of the model as it is now."""
        cells = _Cells(self.folder / f"after-{learner.updates}.json")
        with learner.serving():
            model = learner.model
            rows = [
                cells.get(f"task {way.name}", partial(self.scorer.one, model, way))
                for way in self.scorer.ways
            ]
            scores = self.scorer.gathered(rows)
            measures = dict(scores.measures)
            if self.suites:
                measures["general"] = [
                    cells.get(f"suite {name}", partial(suite, model, self.tokenizer))
                    for name, suite in self.suites.items()
                ]
            for kind, sets in self.asked.items():
                if sets:
                    measures[kind] = [
                        self._delta(cells, model, f"{kind} {name}", list(prompts))
                        for name, prompts in sets.items()
                    ]
        return Scores(scores.plain, scores.task, measures)

    def _delta(self, cells: _Cells, model: Any, name: str, prompts: list[str]) -> float:
        def write() -> list[str]:
            return generate(model, self.tokenizer, prompts, max_new_tokens=self.new_tokens)

        tuned = cells.get(f"answers {name}", write)
        first = _Cells(self.folder / "after-0.json").get(f"answers {name}", _not_there)
        assert self.judge is not None
        return judged(self.judge, prompts, first, tuned).delta


class _Cells:
    """Numbers and texts by name in a JSON file, written after each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.held = json.loads(path.read_text()) if path.exists() else {}

    def get(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self.held:
            self.held[name] = make()
            write_atomically(self.path, (json.dumps(self.held, indent=1) + "\n").encode())
        return self.held[name]


def _not_there() -> Any:
    raise UsageError(
        "The starting model's answers are not in the evaluator's folder: score it before training."
    )


def _until(matrix: ArrayLike, after: int | None) -> tuple[Any, int]:
    r = np.asarray(matrix, dtype=float)
    t = len(r) if after is None else after
    if r.ndim != 2 or r.shape[0] != r.shape[1] or not 1 <= t <= len(r):
        raise UsageError(f"A matrix of {r.shape} has no state after {t} tasks.")
    return r, t
