"""Tasks with labels by name, at any level of the prompt: of GLUE, of the fifteen, and others.

With HOLDFAST_DATA: GLUE's and the fifteen tasks, TREC's questions and CLINC150's domains. Without:
three that are made of Python's own text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from holdfast.errors import unknown
from holdfast.language.fields import Sample
from holdfast.streams.language import cl15, functions, glue, python
from holdfast.streams.language.functions import PACKAGES, YES_NO
from holdfast.streams.language.tasks import Task
from holdfast.streams.language.templates import Template, rendered
from holdfast.streams.sources import data_file

Parts = tuple[Sequence[Sample], Sequence[Sample], Template]

TREC = {
    "ABBR": "abbreviation",
    "DESC": "description",
    "ENTY": "thing",
    "HUM": "person",
    "LOC": "place",
    "NUM": "number",
}
KINDS = ("prose", "code")
OWN = ("package", "returns", "kind")
_SHOWN = 240
"""Characters of a text whose kind is asked for."""


def labelled(
    name: str, level: int, test_level: int | None = None, characters: int | None = None
) -> Task:
    """A task by name.

    Args:
        name: Of GLUE, of the fifteen tasks, `trec`, `clinc`, `package`, `returns` or `kind`.
        level: Of the prompt in training, 0 to 4, as in `holdfast.streams.language.templates`.
        test_level: At test; None: the same.
        characters: Of an input that are shown, from its beginning; None: all.

    Raises:
        UsageError: If there is no such task.
        DataError: If HOLDFAST_DATA does not hold it.
    """
    train, test, template = _parts(name)
    if characters is not None:
        train, test = (
            [replace(s, prompt=str(s.prompt)[:characters].rstrip()) for s in part]
            for part in (train, test)
        )
    asked = level if test_level is None else test_level
    return Task(
        name,
        rendered(train, template, level, train),
        rendered(test, template, asked, train),
        template.labels,
        glue.TASKS[name].metric if name in glue.TASKS else "accuracy",
    )


def _parts(name: str) -> Parts:
    """Bare inputs for training and testing, and how a task is put into words."""
    if name in glue.TASKS:
        return glue.parts(name)
    if name in cl15.INSTRUCTIONS:
        return cl15.parts(name)
    makers = {
        "trec": _trec,
        "clinc": _clinc,
        "package": _package,
        "returns": _returns,
        "kind": _kind,
    }
    if name not in makers:
        raise unknown("task", name, [*glue.TASKS, *cl15.INSTRUCTIONS, *makers])
    return makers[name]()


def _trec() -> Parts:
    labels = tuple(TREC.values())
    train, test = (_read(f"trec/{part}.jsonl.gz", "label") for part in ("train", "test"))
    named = [[Sample(prompt=s.prompt, answer=TREC[str(s.answer)], where=s.where) for s in part]
             for part in (train, test)]  # fmt: skip
    return named[0], named[1], Template("questions", "What does the question ask for?", labels)


def _clinc() -> Parts:
    train, test = (_read(f"clinc150/{part}.jsonl.gz", "domain") for part in ("train", "test"))
    labels = tuple(sorted({str(sample.answer) for sample in train}))
    return train, test, Template("domain of a request", "What is the request about?", labels)


def _read(relative: str, label: str) -> list[Sample]:
    from holdfast.language.records import read

    return list(read(data_file(relative), fields=f"prompt=text,answer={label}"))


def _own(task: str) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """The bare inputs of a task on functions."""
    found = next(each for each in functions.tasks() if each.name == task)
    parts = [
        [
            Sample(
                prompt=str(s.prompt).partition("\n")[2].removesuffix("\nAnswer:"),
                answer=s.answer,
                where=s.where,
            )
            for s in part
        ]
        for part in (found.train, found.test)
    ]
    return parts[0], parts[1]


def _package() -> Parts:
    return *_own("package"), Template("package", "Which package is this from?", PACKAGES)


def _returns() -> Parts:
    return *_own("returns"), Template("return", "Does this function return a value?", YES_NO)


def _kind() -> Parts:
    parts: tuple[list[Sample], list[Sample]] = ([], [])
    pairs = zip(python.documentation(), python.source(), strict=False)
    for prose, code in pairs:
        for label, document in zip(KINDS, (prose, code), strict=True):
            text = document.text[:_SHOWN].strip()
            if text:
                parts[document.held_out].append(
                    Sample(prompt=text, answer=label, where=document.name)
                )
    return parts[0], parts[1], Template("kind of text", "Is this prose or code?", KINDS)
