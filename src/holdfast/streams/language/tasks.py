"""Tasks of prompts and answers, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from holdfast.data import Table
from holdfast.errors import DataError, UsageError
from holdfast.language.encode import encode
from holdfast.language.fields import Sample
from holdfast.stream import Experience, Stream
from holdfast.streams.language.answers import SCORINGS, TaskScorer, Way, check_metric

SLACK = 4
"""Tokens beside prompt and answer: begin, end, and where a cut word begins anew."""

MOST_LABELS = 20
"""Different answers up to which a task of one's own is taken for one with labels to choose from."""


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: For tables.
        train: Prompts with answers to learn from.
        test: Prompts with answers to be scored on.
        labels: The answers that there are, where they are few.
        metric: `"accuracy"`, `"f1"` or `"matthews"` for labels; a metric of
            `holdfast.language.scoring` where answers are written.
        new_tokens: The longest answer that is written.
        epochs: Passes over it; None: as many as the learner makes.
        marker: What stands before the final answer in a written one; empty where all is answer.
    """

    name: str
    train: Sequence[Sample]
    test: Sequence[Sample]
    labels: tuple[str, ...] = ()
    metric: str = "accuracy"
    new_tokens: int = 16
    epochs: int | None = None
    marker: str = ""


def text_tasks(
    tasks: Sequence[Task],
    tokenizer: Any,
    name: str = "tasks",
    seed: int = 0,
    *,
    scoring: str = "choice",
    length: int = 256,
    limit: int | None = None,
    test_limit: int | None = None,
) -> Stream:
    """A stream whose experiences are tasks; every answer and its end token are learned.

    Args:
        tasks: In order.
        tokenizer: Of the model that is to learn.
        name: Of the stream.
        seed: Draws what `limit` keeps.
        scoring: `"choice"`: the likeliest of the task's labels; `"generate"`: what the model
            writes, read as one of them; `"both"`: as `generate`, with the other recorded beside it.
            Tasks without labels are always scored by what is written.
        length: Most tokens of a prompt with its answer; what is longer loses its beginning.
        limit: Training examples a task; None: all.
        test_limit: Likewise, test examples.

    Raises:
        DataError: If a task has no examples, or an answer that is none of its labels.
        UsageError: If an argument is out of range, or a metric does not exist or fit.
    """
    if not tasks:
        raise DataError(f"{name} has no tasks.")
    if scoring not in SCORINGS:
        raise UsageError(f"scoring must be {' or '.join(SCORINGS)}; given: {scoring!r}.")
    kept = []
    for task in tasks:
        check_metric(task.metric, bool(task.labels), task.name)
        generator = torch.Generator().manual_seed(seed)
        train, test = (
            drawn(samples, most, generator)
            for samples, most in ((task.train, limit), (task.test, test_limit))
        )
        for part, samples in (("training", train), ("test", test)):
            if not samples:
                raise DataError(f"The task {task.name} has no {part} examples.")
            _refuse_strangers(task, samples)
        room = length - _longest_answer(task, [*train, *test], tokenizer) - SLACK
        if room < 1:
            raise UsageError(
                f"{length} tokens leave no room for a prompt beside an answer of {task.name}; give "
                "a larger length."
            )
        train, test = (shortened(samples, tokenizer, room) for samples in (train, test))
        kept.append(replace(task, train=train, test=test))
    experiences = [
        Experience(
            index,
            _table(task.train, tokenizer, length),
            _table(task.test, tokenizer, length),
            (),
            task.name,
            epochs=task.epochs,
        )
        for index, task in enumerate(kept)
    ]
    ways = [
        Way(t.name, tuple(t.test), t.labels, t.metric, t.new_tokens, length, t.marker) for t in kept
    ]
    scorer = TaskScorer(ways, tokenizer, scoring)
    return Stream(name, experiences, "text", 0, (length,), scorer=scorer)


def drawn(
    samples: Sequence[Sample], most: int | None, generator: torch.Generator
) -> tuple[Sample, ...]:
    """At most so many samples, drawn without replacement, in their order."""
    if most is None or len(samples) <= most:
        return tuple(samples)
    chosen = torch.randperm(len(samples), generator=generator)[:most].sort().values
    return tuple(samples[i] for i in chosen.tolist())


def shortened(samples: Sequence[Sample], tokenizer: Any, room: int) -> tuple[Sample, ...]:
    """The samples, their prompts without their beginnings where they have more than `room` tokens.

    The same for training, choosing and writing, so that all see one prompt.
    """
    read = tokenizer(
        [str(sample.prompt) for sample in samples],
        add_special_tokens=False,
        return_offsets_mapping=True,
        verbose=False,
    )["offset_mapping"]
    return tuple(
        sample
        if len(places) <= room
        else replace(sample, prompt=str(sample.prompt)[places[-room][0] :])
        for sample, places in zip(samples, read, strict=True)
    )


def own(path: Path) -> list[Task]:
    """The tasks in a folder: one folder each, with files `train` and `test`, by name.

    Labels are the `choices` that the records list, if all list the same; else the different
    training answers, if they are few and each occurs twice or more. Other tasks are scored by exact
    match of what is written.

    Raises:
        DataError: If there is no task, or if a file is missing or cannot be read.
    """
    if not path.is_dir():
        raise DataError(f"There is no folder {path}; it should hold one folder for each task.")
    folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise DataError(
            f"{path} holds no tasks: accepted is one folder for each, with train.jsonl and "
            "test.jsonl."
        )
    return [_own(folder) for folder in folders]


def _own(folder: Path) -> Task:
    from holdfast.language.records import read

    parts = []
    for part in ("train", "test"):
        found = sorted(f for f in folder.iterdir() if f.is_file() and f.name.split(".")[0] == part)
        if len(found) != 1:
            raise DataError(
                f"The task {folder} needs one file {part}.jsonl (or .json, .csv, .parquet); it has "
                f"{len(found)}."
            )
        samples = read(found[0])
        if samples.kind != "prompt":
            raise DataError(
                f"{found[0]} holds samples of the kind {samples.kind!r}; a task needs prompts with "
                "answers."
            )
        parts.append(samples.items)
    train, test = parts
    labels = labels_of(train)
    longest = max(len(str(sample.answer)) for sample in (*train, *test))
    return Task(
        folder.name,
        train,
        test,
        labels,
        "accuracy" if labels else "exact_match",
        min(128, max(4, longest)),  # no token is shorter than a byte
    )


def labels_of(samples: Sequence[Sample]) -> tuple[str, ...]:
    """The answers to choose from, if these are such samples; see `own`."""
    choices = {sample.choices for sample in samples}
    if len(choices) == 1 and (listed := choices.pop()):
        return listed
    counts: dict[str, int] = {}
    for sample in samples:
        counts[str(sample.answer)] = counts.get(str(sample.answer), 0) + 1
    few = 2 <= len(counts) <= MOST_LABELS and min(counts.values()) >= 2
    return tuple(sorted(counts)) if few else ()


def _longest_answer(task: Task, samples: Sequence[Sample], tokenizer: Any) -> int:
    texts = list(dict.fromkeys([*(str(sample.answer) for sample in samples), *task.labels]))
    read = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return max(task.new_tokens, *map(len, read))


def _refuse_strangers(task: Task, samples: Sequence[Sample]) -> None:
    for sample in samples:
        if sample.kind != "prompt":
            raise DataError(
                f"{sample.where or task.name} is a {sample.kind}; a task needs prompts with "
                "answers."
            )
        if task.labels and sample.answer not in task.labels:
            raise DataError(
                f"{sample.where or task.name}: the answer {sample.answer!r} is none of the labels "
                f"of {task.name}: {', '.join(task.labels)}."
            )


def _table(samples: Sequence[Sample], tokenizer: Any, length: int) -> Table:
    return encode(samples, tokenizer, length=length, overlong="cut").table
