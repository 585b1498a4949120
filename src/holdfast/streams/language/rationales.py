"""Reasoning-augmented continual learning: rationales before answers, as a change of the data.

A prompt gets a cue (say what the task asks, think, then answer); what is learned is the rationale,
a marker, and the answer. At test the final answer is what follows the last marker. Rationales come
from a strong model, once, outside; those that conclude something else than the answer are left out.

Source: Wang et al., "TRACE" (2023), reasoning-augmented continual learning.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from holdfast.errors import DataError
from holdfast.language.fields import Sample
from holdfast.streams.language.answers import final_answer
from holdfast.streams.language.tasks import Task

MARKER = "\nThe answer is: "
CUE = "Say what the task asks, think step by step, then give the answer.\n"


def with_rationales(task: Task, path: Path, cue: str = CUE) -> Task:
    """The task with the rationales of a JSONL file.

    Args:
        task: Any task with written answers.
        path: Lines `{"task", "index", "rationale"}`; `index` counts the training examples from 0.
        cue: Put before every prompt.

    Raises:
        DataError: If the file cannot be read, has no consistent rationale for the task, or an index
            that does not exist.
    """
    found: dict[int, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            name, index, text = record["task"], record["index"], record["rationale"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}:{number} is no JSON object with task, index and rationale."
            ) from error
        if name == task.name:
            if not isinstance(index, int) or not 0 <= index < len(task.train):
                raise DataError(
                    f"{path}:{number}: {task.name} has no training example {index!r}; it has "
                    f"{len(task.train)}."
                )
            found[index] = str(text)
    train = reasoned(task.train, found, cue)
    if not train:
        raise DataError(f"{path} has no rationale for {task.name} that agrees with its answer.")
    test = [replace(sample, prompt=cue + str(sample.prompt)) for sample in task.test]
    return replace(task, train=train, test=test, labels=(), marker=MARKER)


def reasoned(
    samples: Sequence[Sample], rationales: Mapping[int, str], cue: str = CUE
) -> list[Sample]:
    """The samples that have a consistent rationale, with it before their answers.

    A rationale that itself ends with the marker and an answer is consistent if that is the
    sample's; one without a marker concludes nothing, and is taken.
    """
    kept = []
    for index, sample in enumerate(samples):
        text = rationales.get(index)
        if text is None:
            continue
        concluded = final_answer(text, MARKER)
        if concluded is not None and concluded != str(sample.answer).strip():
            continue
        thought = text.rpartition(MARKER)[0] if concluded is not None else text
        kept.append(
            replace(
                sample,
                prompt=cue + str(sample.prompt),
                answer=f"{thought.strip()}{MARKER}{sample.answer}",
            )
        )
    return kept


def same_budget(
    plain: Sequence[Sample], reasoned: Sequence[Sample], tokenizer: Any
) -> list[Sample]:
    """Bare examples repeated, in order, until they have as many tokens as the reasoned ones.

    The control for rationales, which also are simply more text to learn from.
    """

    def tokens(samples: Sequence[Sample]) -> list[int]:
        texts = [f"{sample.prompt} {sample.answer}" for sample in samples]
        return [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]

    budget, sizes = sum(tokens(reasoned)), tokens(plain)
    found: list[Sample] = []
    at = 0
    while budget > 0:
        found.append(plain[at % len(plain)])
        budget -= sizes[at % len(plain)]
        at += 1
    return found
