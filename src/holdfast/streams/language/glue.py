"""A sequence of GLUE's tasks, put into words.

Files are read as GLUE distributes them, or as the data folder keeps them. Labels become words, by
which they are answered; the metrics are the tasks' own.

Source: Wang et al., "GLUE: a multi-task benchmark and analysis platform for natural language
understanding" (2019).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.errors import DataError, UsageError, unknown
from holdfast.language.fields import Sample
from holdfast.stream import Stream
from holdfast.streams.language.tasks import Task, text_tasks
from holdfast.streams.language.templates import Template, check_level, rendered
from holdfast.streams.sources import data_file

ORDER = "sst2-mrpc-cola-mnli"


@dataclass(frozen=True)
class Glue:
    """One task of GLUE.

    Attributes:
        title: Its name in words.
        instruction: What to do.
        words: From its labels, in every spelling that files use, to the words that answer.
        metric: Its own.
        kept: Training and test file in the data folder.
        official: Folder, training and test file as GLUE distributes them.
        columns: Of the official files: the inputs, then the label; numbers where there is no
            heading.
    """

    title: str
    instruction: str
    words: Mapping[str, str]
    metric: str
    kept: tuple[str, str]
    official: tuple[str, str, str]
    columns: tuple[str, ...] | tuple[int, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.words.values()))


_PAIR = {"1": "yes", "0": "no"}
_INFERENCE = ("entailment", "neutral", "contradiction")

TASKS: dict[str, Glue] = {
    "sst2": Glue(
        "sentiment",
        "Is the sentiment of the following sentence positive or negative?",
        {"positive": "positive", "1": "positive", "negative": "negative", "0": "negative"},
        "accuracy",
        ("glue/sst2_train.jsonl.gz", "glue/sst2_dev.jsonl.gz"),
        ("SST-2", "train.tsv", "dev.tsv"),
        ("sentence", "label"),
    ),
    "mrpc": Glue(
        "paraphrase",
        "Do the two sentences mean the same?",
        {"equivalent": "yes", "not_equivalent": "no", **_PAIR},
        "f1",
        ("glue/mrpc_train.jsonl.gz", "glue/mrpc_test.jsonl.gz"),
        ("MRPC", "msr_paraphrase_train.txt", "msr_paraphrase_test.txt"),
        ("#1 String", "#2 String", "Quality"),
    ),
    "cola": Glue(
        "grammar",
        "Is the following sentence acceptable English?",
        {
            "acceptable": "acceptable",
            "1": "acceptable",
            "unacceptable": "unacceptable",
            "0": "unacceptable",
        },
        "matthews",
        ("glue/cola_train.jsonl.gz", "glue/cola_dev.jsonl.gz"),
        ("CoLA", "train.tsv", "dev.tsv"),
        (3, 1),
    ),
    "mnli": Glue(
        "inference",
        "Does the first sentence entail or contradict the second, or neither (neutral)?",
        {label: label for label in _INFERENCE},
        "accuracy",
        ("cl15/mnli_train.jsonl.gz", "cl15/mnli_test.jsonl.gz"),
        ("MNLI", "train.tsv", "dev_matched.tsv"),
        ("sentence1", "sentence2", "gold_label"),
    ),
    "qqp": Glue(
        "same question",
        "Do the two questions ask the same?",
        {"True": "yes", "False": "no", **_PAIR},
        "f1",
        ("cl15/qqp_train.jsonl.gz", "cl15/qqp_test.jsonl.gz"),
        ("QQP", "train.tsv", "dev.tsv"),
        ("question1", "question2", "is_duplicate"),
    ),
    "rte": Glue(
        "entailment",
        "Does the first sentence entail the second?",
        {"entailment": "yes", "not_entailment": "no"},
        "accuracy",
        ("glue/rte_train.jsonl.gz", "glue/rte_dev.jsonl.gz"),
        ("RTE", "train.tsv", "dev.tsv"),
        ("sentence1", "sentence2", "label"),
    ),
}
"""The tasks at hand, by name."""

FILES = tuple(file for name in ORDER.split("-") for file in TASKS[name].kept)


def build(
    tokenizer: Any,
    name: str,
    seed: int,
    *,
    tasks: str = ORDER,
    prompt: int = 2,
    test_prompt: int | None = None,
    scoring: str = "choice",
    length: int = 256,
    limit: int | None = 500,
    test_limit: int | None = 200,
    path: Path | None = None,
) -> Stream:
    """GLUE's tasks in an order.

    Args:
        tokenizer: Of the model that is to learn.
        name: Of the stream.
        seed: Draws what `limit` keeps.
        tasks: Names joined by hyphens, in order.
        prompt: Level of the prompt, 0 to 4, as in `holdfast.streams.language.templates`.
        test_prompt: Level at which answers are asked for; None: the same. Another tells whether
            what is lost can be had back by the prompt alone.
        scoring: As in `text_tasks`.
        length: Likewise.
        limit: Likewise.
        test_limit: Likewise.
        path: A folder with GLUE's own files; None: the data folder.

    Raises:
        UsageError: If a task does not exist, or if an argument is out of range.
        DataError: If files are missing or cannot be read.
    """
    chosen = [each.strip() for each in tasks.split("-")]
    for each in chosen:
        if each not in TASKS:
            raise unknown("task", each, TASKS, " of GLUE")
    if len(set(chosen)) < len(chosen):
        raise UsageError(f"tasks names one task twice: {tasks}.")
    check_level(prompt)
    asked = prompt if test_prompt is None else test_prompt
    check_level(asked)
    return text_tasks(
        [task(each, prompt, asked, path) for each in chosen], tokenizer, name, seed,
        scoring=scoring, length=length, limit=limit, test_limit=test_limit,
    )  # fmt: skip


def task(name: str, level: int, test_level: int, path: Path | None = None) -> Task:
    """One task, at a level of the prompt for training and one for testing."""
    train, test, template = parts(name, path)
    return Task(
        name,
        rendered(train, template, level, train),
        rendered(test, template, test_level, train),
        template.labels,
        TASKS[name].metric,
    )


def parts(name: str, path: Path | None = None) -> tuple[list[Sample], list[Sample], Template]:
    """The bare inputs of a task for training and testing, and how it is put into words."""
    glue = TASKS[name]
    train, test = (
        read_kept(name, part) if path is None else read_official(name, part, path)
        for part in (0, 1)
    )
    return train, test, Template(glue.title, glue.instruction, glue.labels)


def read_kept(name: str, part: int) -> list[Sample]:
    """Training (0) or test (1) examples of the data folder: bare inputs, and answers in words."""
    from holdfast.language.files import rows

    glue, found = TASKS[name], []
    for row in rows(data_file(glue.kept[part])):
        record = row.record
        label = record.pop("label")
        texts = list(record.values())
        found.append(_sample(name, texts, label, row.where))
    return found


def read_official(name: str, part: int, path: Path) -> list[Sample]:
    """The same from GLUE's own tab-separated files.

    Raises:
        DataError: If a file is missing, lacks a column, or has a label that is none of the task's.
    """
    glue = TASKS[name]
    file = path / glue.official[0] / glue.official[1 + part]
    if not file.is_file():
        raise DataError(f"There is no file {file}; GLUE's {name} is read from there.")
    with file.open(encoding="utf-8-sig", newline="") as lines:
        table = [line for line in csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE) if line]
    columns, start = glue.columns, 0
    if isinstance(columns[0], str):
        for column in columns:
            if column not in table[0]:
                raise DataError(f"{file} has no column {column!r}; it has: {', '.join(table[0])}.")
        places = [table[0].index(str(column)) for column in columns]
        start = 1
    else:
        places = [int(column) for column in columns]
    found = []
    for number, row in enumerate(table[start:], start + 1):
        where = f"{file.name}:{number}"
        if len(row) <= max(places):
            raise DataError(f"{where} has {len(row)} columns; {max(places) + 1} are needed.")
        *texts, label = (row[place] for place in places)
        if name == "mnli" and label == "-":
            continue  # annotators did not agree
        found.append(_sample(name, texts, label, where))
    return found


def _sample(name: str, texts: list[str], label: str, where: str) -> Sample:
    glue = TASKS[name]
    if label not in glue.words:
        raise DataError(
            f"{where}: {label!r} is no label of {name}; accepted: {', '.join(glue.words)}."
        )
    text = texts[0]
    if len(texts) == 2:
        text = f"first: {texts[0]}\nsecond: {texts[1]}"
    return Sample(prompt=text, answer=glue.words[label], where=where)
