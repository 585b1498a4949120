"""Four unlike tasks on the functions of Python's standard library, which every machine has.

Which package a function is from, and whether it returns a value, are answered with labels; the
next line of its code, and the first line of its docstring, are written. Functions of held-out files
are the test examples.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from holdfast.language.fields import Sample
from holdfast.stream import Stream
from holdfast.streams.language import python
from holdfast.streams.language.tasks import Task, text_tasks

PACKAGES = ("asyncio", "email", "tkinter", "unittest")
YES_NO = ("yes", "no")
_SHOWN = 6
"""Lines of code that a prompt shows at most."""
_WIDEST = 60
"""Characters of a line at most, so that small models see whole lines."""


@dataclass(frozen=True)
class Function:
    """A function of the standard library.

    Attributes:
        where: File and line.
        package: The first part of the file's name.
        lines: Its code without docstring.
        summary: The first line of its docstring; empty if it has none.
        returns: Whether it returns a value.
        held_out: Whether its file is kept to test on.
    """

    where: str
    package: str
    lines: tuple[str, ...]
    summary: str
    returns: bool
    held_out: bool


def build(
    tokenizer: Any,
    name: str,
    seed: int,
    *,
    scoring: str = "choice",
    length: int = 256,
    limit: int | None = 400,
    test_limit: int | None = 100,
) -> Stream:
    """The four tasks, in the order package, completion, returns, summary.

    Args:
        tokenizer: Of the model that is to learn.
        name: Of the stream.
        seed: Draws what `limit` keeps.
        scoring: As in `text_tasks`.
        length: Likewise.
        limit: Likewise.
        test_limit: Likewise.
    """
    return text_tasks(
        tasks(), tokenizer, name, seed,
        scoring=scoring, length=length, limit=limit, test_limit=test_limit,
    )  # fmt: skip


def tasks() -> list[Task]:
    """The four tasks with all their examples."""
    return [
        _task("package", _package, PACKAGES),
        _task("completion", _completion, metric="edit_similarity", new_tokens=32),
        _task("returns", _returns, YES_NO),
        _task("summary", _summary, metric="rouge_l", new_tokens=32),
    ]


def _task(
    name: str,
    ask: Callable[[Function], tuple[str, str] | None],
    labels: tuple[str, ...] = (),
    metric: str = "accuracy",
    new_tokens: int = 8,
) -> Task:
    parts: tuple[list[Sample], list[Sample]] = ([], [])
    for function in functions():
        asked = ask(function)
        if asked is not None:
            prompt, answer = asked
            parts[function.held_out].append(
                Sample(prompt=prompt, answer=answer, where=function.where)
            )
    train, test = (_balanced(part, labels) for part in parts)
    return Task(name, train, test, labels, metric, new_tokens)


def _balanced(samples: list[Sample], labels: tuple[str, ...]) -> list[Sample]:
    """As many of each label, so that no label is right by itself."""
    if not labels:
        return samples
    fewest = min(sum(s.answer == label for s in samples) for label in labels)
    generator = torch.Generator().manual_seed(0)
    kept = []
    for label in labels:
        members = [s for s in samples if s.answer == label]
        chosen = torch.randperm(len(members), generator=generator)[:fewest].sort().values
        kept += [members[i] for i in chosen.tolist()]
    order = torch.randperm(len(kept), generator=generator).tolist()
    return [kept[i] for i in order]


def _code(lines: tuple[str, ...]) -> str:
    return "\n".join(line[:_WIDEST] for line in lines[:_SHOWN])


def _package(function: Function) -> tuple[str, str] | None:
    if function.package not in PACKAGES:
        return None
    labels = ", ".join(PACKAGES)
    return f"Which package is this from? One of: {labels}.\n{_code(function.lines)}\nAnswer:", (
        function.package
    )


def _returns(function: Function) -> tuple[str, str] | None:
    if len(function.lines) > _SHOWN:
        return None
    question = "Does this function return a value? One of: yes, no."
    return f"{question}\n{_code(function.lines)}\nAnswer:", "yes" if function.returns else "no"


def _completion(function: Function) -> tuple[str, str] | None:
    lines = function.lines[: _SHOWN - 1]
    if len(lines) < 3 or not 8 <= len(lines[-1].strip()) <= _WIDEST:
        return None
    return f"Continue the code.\n{_code(lines[:-1])}\nAnswer:", lines[-1].strip()


def _summary(function: Function) -> tuple[str, str] | None:
    if not 12 <= len(function.summary) <= _WIDEST:
        return None
    return f"Say what this function does.\n{_code(function.lines)}\nAnswer:", function.summary


@cache
def functions() -> tuple[Function, ...]:
    """The functions of the standard library that have three lines or more."""
    return tuple(function for name, path in python.files() for function in _functions(name, path))


def _functions(name: str, path: Path) -> Iterator[Function]:
    try:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
    except (SyntaxError, UnicodeDecodeError):
        return
    lines = text.splitlines()
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        docstring = ast.get_docstring(node)
        skip = range(0)
        if docstring is not None:
            place = node.body[0]
            skip = range(place.lineno, (place.end_lineno or place.lineno) + 1)
        rows = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        code = tuple(
            lines[row - 1][node.col_offset :]
            for row in rows
            if row not in skip and lines[row - 1].strip()
        )
        if len(code) < 3:
            continue
        returns = any(
            isinstance(inner, ast.Return) and inner.value is not None for inner in ast.walk(node)
        )
        yield Function(
            f"{name}:{node.lineno}",
            name.split("/")[0],
            code,
            (docstring or "").strip().split("\n")[0],
            returns,
            python.held_out(name),
        )
