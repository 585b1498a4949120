"""Answers: what a model makes of the tasks of a stream, by choosing or by writing.

Choosing and writing are two measures of two things. A model that writes labels of the last task
under a prompt of the first has lost the form of the answer, and may still know which one is right:
the gap between the two scores says which.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from holdfast.errors import UsageError
from holdfast.evaluation import Scores
from holdfast.language import scoring
from holdfast.language.encode import prompts
from holdfast.language.fields import Sample
from holdfast.language.generate import generate
from holdfast.language.probe import ProbeSet, measure

if TYPE_CHECKING:
    from holdfast.learner import Learner

SCORINGS = ("choice", "generate", "both")
LABEL_METRICS = ("accuracy", "f1", "matthews")
RESAMPLES = 200
"""Draws of the bootstrap of a metric."""


@dataclass(frozen=True)
class Way:
    """How one task is scored.

    Attributes:
        name: Of the task.
        samples: Prompts with answers.
        labels: The answers that there are; empty where they are free.
        metric: As in `Task`.
        new_tokens: The longest answer that is written.
        length: Most tokens of a prompt with its answer.
        marker: What stands before the final answer; empty where all that is written is the answer.
    """

    name: str
    samples: tuple[Sample, ...]
    labels: tuple[str, ...]
    metric: str
    new_tokens: int
    length: int
    marker: str = ""


class TaskScorer:
    """Scores a learner on every task.

    Beside the score these measures are recorded, NaN where a task does not have one: `loss`, of
    the right answers; `chosen` and `written`, the scores by choosing and by writing; `accuracy`,
    where the score is another metric; `normalised`, accuracy of choosing by log-probability a byte;
    `unparsable`, the share of written answers that are none of the labels; and `majority`, the
    score of always giving the test examples' commonest label. `chosen_error` and `written_error`
    are standard errors, by the bootstrap over test examples.

    Args:
        ways: One a task.
        tokenizer: Of the model.
        mode: `"choice"`, `"generate"` or `"both"`, as in `text_tasks`.
    """

    def __init__(self, ways: Sequence[Way], tokenizer: Any, mode: str = "choice") -> None:
        self.ways, self.tokenizer, self.mode = tuple(ways), tokenizer, mode

    def subset(self, examples: int, seed: int) -> TaskScorer:
        """The same on at most so many examples a task."""
        from holdfast.streams.language.tasks import drawn

        generator = torch.Generator().manual_seed(seed)
        fewer = [replace(w, samples=drawn(w.samples, examples, generator)) for w in self.ways]
        return TaskScorer(fewer, self.tokenizer, self.mode)

    def score(self, learner: Learner) -> Scores:
        """The score of every task, leaving the learner as it was."""
        with learner.serving():
            return self.gathered([self.one(learner.model, way) for way in self.ways])

    def gathered(self, rows: Sequence[Mapping[str, float]]) -> Scores:
        """Scores from all numbers of every task, as `one` finds them."""
        main = [
            row["chosen"] if way.labels and self.mode == "choice" else row["written"]
            for way, row in zip(self.ways, rows, strict=True)
        ]
        names = dict.fromkeys(name for row in rows for name in row)
        nan = float("nan")
        measures = {name: [row.get(name, nan) for row in rows] for name in names}
        return Scores(main, list(main), measures)

    def one(self, model: Any, way: Way) -> dict[str, float]:
        """All numbers of one task."""
        found: dict[str, float] = {}
        right = [str(sample.answer) for sample in way.samples]
        listed = [replace(sample, choices=way.labels) for sample in way.samples]
        read = measure(model, self.tokenizer, ProbeSet(way.name, listed), length=way.length)
        found["loss"] = read.loss
        if way.labels:
            found["majority"] = majority(right, way.labels, way.metric)
            if self.mode != "generate":
                found["chosen"] = of_labels(read.answers, right, way.metric, way.labels)
                found["chosen_error"] = error(read.answers, right, way.metric, way.labels)
                found["accuracy"] = of_labels(read.answers, right)
                found["normalised"] = float(read.normalised.mean())
        if self.mode != "choice" or not way.labels:
            written = self.written(model, way)
            if way.labels:
                parsed = [parse(text, way.labels) for text in written]
                found["unparsable"] = parsed.count(None) / len(parsed)
                given = [answer if answer is not None else "" for answer in parsed]
                found["written"] = of_labels(given, right, way.metric, way.labels)
                found["written_error"] = error(given, right, way.metric, way.labels)
                found["accuracy"] = of_labels(given, right)
            else:
                if way.marker:
                    ends = [final_answer(text, way.marker) for text in written]
                    found["unparsable"] = ends.count(None) / len(ends)
                    written = [text or "" for text in ends]
                sources = [str(sample.prompt) for sample in way.samples]
                found["written"] = float(scoring.score(way.metric, written, right, sources).mean())
        return found

    def written(self, model: Any, way: Way) -> list[str]:
        """What the model writes to each prompt, greedily."""
        return generate(
            model,
            self.tokenizer,
            prompts(way.samples, self.tokenizer),
            max_new_tokens=way.new_tokens,
        )


def final_answer(text: str, marker: str) -> str | None:
    """What follows the last marker, up to the end of the line; None without a marker.

    Example:
        >>> final_answer("2 and 3 make 5. So: 5\\nMore.", "So: ")
        '5'
    """
    _, found, after = text.rpartition(marker.strip())
    return after.strip().split("\n")[0].strip() if found else None


def parse(text: str, labels: Sequence[str]) -> str | None:
    """The label that a written answer begins with, whatever its case and spaces; None if none.

    Where one label is the beginning of another, the longer one that fits is meant.

    Example:
        >>> parse(" Very  Negative. I think", ["negative", "very negative"])
        'very negative'
        >>> parse("neither", ["yes", "no"]) is None
        True
    """
    said = _plain(text)
    fitting = [label for label in labels if re.match(rf"{re.escape(_plain(label))}(?!\w)", said)]
    return max(fitting, key=lambda label: len(_plain(label)), default=None)


def of_labels(
    given: Sequence[str],
    right: Sequence[str],
    metric: str = "accuracy",
    labels: Sequence[str] = (),
) -> float:
    """Accuracy, F1 of the first label, or Matthews correlation of a whole set of answers.

    An answer that is no label counts as a wrong one of its own kind.
    """
    if metric == "f1":
        from sklearn.metrics import f1_score

        first = list(labels[:1])
        return float(f1_score(right, given, labels=first, average="macro", zero_division=0))
    if metric == "matthews":
        return scoring.matthews(given, right)
    return sum(g == r for g, r in zip(given, right, strict=True)) / len(right)


def error(given: Sequence[str], right: Sequence[str], metric: str, labels: Sequence[str]) -> float:
    """Standard error of `of_labels` over the examples, by the bootstrap.

    Of accuracy it is known without drawing; other metrics are computed on so many sets of as many
    examples, drawn with replacement from a fixed seed.

    Example:
        >>> error(["a", "a", "b", "b"], ["a", "a", "a", "b"], "accuracy", ["a", "b"])
        0.21650635094610965
    """
    count = len(right)
    if metric == "accuracy":
        share = of_labels(given, right)
        return float((share * (1 - share) / count) ** 0.5)
    draws = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    said, true = np.array(given), np.array(right)
    found = [of_labels(said[drawn], true[drawn], metric, labels) for drawn in draws]
    return float(np.std(found))


def majority(right: Sequence[str], labels: Sequence[str], metric: str) -> float:
    """The score of always giving the commonest label."""
    common = max(labels, key=right.count)
    return of_labels([common] * len(right), right, metric, labels)


def check_metric(metric: str, labelled: bool, task: str) -> None:
    """Refuse a metric that a task cannot be scored by."""
    if labelled:
        if metric not in LABEL_METRICS:
            raise UsageError(
                f"The task {task} has labels, so its metric must be one of "
                f"{', '.join(LABEL_METRICS)}; given: {metric!r}."
            )
    elif metric in LABEL_METRICS:
        raise UsageError(
            f"The task {task} has no labels to count by {metric!r}; accepted: a metric of text, "
            f"{', '.join(scoring.METRICS)}."
        )
    else:
        scoring.check(metric)


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
