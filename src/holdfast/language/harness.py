"""Tasks of the LM Evaluation Harness (the package `lm-eval`), scored example by example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import DataError, UsageError
from holdfast.evaluation import undisturbed

PREFERRED = ("acc", "exact_match", "f1", "em", "pass@1", "rougeL", "bleu")
"""Metrics by which a task is judged: the first of these that it has for every example."""


@dataclass(frozen=True)
class Task:
    """A task's scores.

    Attributes:
        name: Of the task.
        metric: What scores are.
        scores: One an example, in the order of the task's documents.
    """

    name: str
    metric: str
    scores: NDArray[np.float64]


def check(tasks: Sequence[str]) -> None:
    """Refuse tasks before any work begins.

    Raises:
        UsageError: If the package is missing, or if there is no such task.
    """
    manager = _manager()
    for name in tasks:
        if name not in manager.all_tasks:  # thousands, so they are not listed
            near = get_close_matches(name, manager.all_tasks, n=3)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise UsageError(f"There is no lm-eval task {name!r}.{hint}")


def run(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[str],
    limit: int | None = None,
    progress: Callable[[str], None] = lambda what: None,
    manager: Any = None,
) -> list[Task]:
    """Score a model on tasks, with each task's own prompts, few-shot examples and metrics.

    Args:
        model: In memory, of transformers or PEFT.
        tokenizer: Its tokenizer.
        tasks: Names; a group counts as all its tasks.
        limit: At most so many examples a task.
        progress: Called with what is being done.
        manager: A task manager of lm-eval, for tasks of one's own.

    Raises:
        UsageError: If the package is missing.
        DataError: If a task has no metric of single examples.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    progress(f"lm-eval: {', '.join(tasks)}")
    with undisturbed(model, device=model.device):
        found = simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8),
            tasks=list(tasks),
            limit=limit,
            log_samples=True,
            bootstrap_iters=0,
            task_manager=manager or _manager(),
        )
    return [_task(name, samples) for name, samples in sorted(found["samples"].items())]


def _task(name: str, samples: Sequence[dict[str, Any]]) -> Task:
    ordered = sorted(samples, key=lambda sample: sample["doc_id"])
    names = [key for key in ordered[0] if _numeric(ordered, key)]
    metric = next((key for key in PREFERRED if key in names), None)
    if metric is None:
        raise DataError(
            f"The task {name} has no score for single examples that can be compared; it has "
            f"{', '.join(map(repr, ordered[0]['metrics']))}."
        )
    return Task(name, metric, np.array([float(sample[metric]) for sample in ordered]))


def _numeric(samples: Sequence[dict[str, Any]], key: str) -> bool:
    return all(isinstance(sample.get(key), (int, float, np.number)) for sample in samples)


def _manager() -> Any:
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UsageError(
            "lm-eval tasks need the package lm-eval: pip install 'holdfast[eval]'."
        ) from error
    return TaskManager()
