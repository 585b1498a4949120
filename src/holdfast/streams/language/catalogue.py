"""Streams of language by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from holdfast.stream import Stream
from holdfast.streams.language import cl15, domains, functions, glue, tasks, trace
from holdfast.streams.language.corpora import corpora
from holdfast.streams.language.domains import Domain


@dataclass(frozen=True)
class Text:
    """A stream of language that has a name.

    Attributes:
        summary: One sentence.
        experiences: How many; 0 where one's own data decide.
        build: From tokenizer, name and seed, and for one's own data a path before them, to the
            stream; its keywords are the arguments of spec strings.
        files: In HOLDFAST_DATA, of which it needs all.
    """

    summary: str
    experiences: int
    build: Callable[..., Stream]
    files: tuple[str, ...] = ()


def _corpora(
    read: Callable[[], Sequence[Domain]],
    tokenizer: Any,
    name: str,
    seed: int,
    *,
    known: int = 0,
    length: int = 128,
    limit: int | None = 2000,
    test_limit: int | None = 128,
) -> Stream:
    return corpora(
        read(), tokenizer, name, seed,
        known=known, length=length, limit=limit, test_limit=test_limit,
    )  # fmt: skip


def _own_corpora(
    path: Path,
    tokenizer: Any,
    name: str,
    seed: int,
    *,
    known: int = 0,
    length: int = 128,
    limit: int | None = None,
    test_limit: int | None = None,
) -> Stream:
    return corpora(
        domains.own(path), tokenizer, name, seed,
        known=known, length=length, limit=limit, test_limit=test_limit,
    )  # fmt: skip


def _own_tasks(
    path: Path,
    tokenizer: Any,
    name: str,
    seed: int,
    *,
    scoring: str = "choice",
    length: int = 256,
    limit: int | None = None,
    test_limit: int | None = None,
) -> Stream:
    return tasks.text_tasks(
        tasks.own(path), tokenizer, name, seed,
        scoring=scoring, length=length, limit=limit, test_limit=test_limit,
    )  # fmt: skip


def _own_glue(
    path: Path,
    tokenizer: Any,
    name: str,
    seed: int,
    *,
    tasks: str = glue.ORDER,
    prompt: int = 2,
    test_prompt: int | None = None,
    scoring: str = "choice",
    length: int = 256,
    limit: int | None = None,
    test_limit: int | None = None,
) -> Stream:
    return glue.build(
        tokenizer, name, seed, tasks=tasks, prompt=prompt, test_prompt=test_prompt,
        scoring=scoring, length=length, limit=limit, test_limit=test_limit, path=path,
    )  # fmt: skip


STREAMS: dict[str, Text] = {
    "docs-code": Text(
        "Python's documentation, known already, then its standard library's source.",
        2,
        partial(_corpora, domains.docs_code, known=1),
    ),
    "python-tasks": Text(
        "Four unlike tasks on the standard library's functions: package, next line, and so on.",
        4,
        functions.build,
    ),
    "stories-shakespeare": Text(
        "What a small Llama tells by itself, known already, then Shakespeare's plays.",
        2,
        partial(_corpora, domains.stories_shakespeare, known=1),
        (domains.STORIES, domains.SHAKESPEARE),
    ),
    "stories-german": Text(
        "What a small Llama tells by itself, known already, then German novels.",
        2,
        partial(_corpora, domains.stories_german, known=1),
        (domains.STORIES, domains.GERMAN),
    ),
    "wikitext-shakespeare": Text(
        "Articles of an encyclopaedia, then Shakespeare's plays.",
        2,
        partial(_corpora, domains.wikitext_shakespeare),
        (domains.WIKITEXT, domains.WIKITEXT_TEST, domains.SHAKESPEARE),
    ),
    "english-german": Text(
        "English novels, then German ones.",
        2,
        partial(_corpora, domains.english_german),
        (domains.ENGLISH, domains.GERMAN),
    ),
    "cl15": Text(
        "The fifteen-task benchmark in its six orders, without Yahoo, which is not at hand.",
        3,
        cl15.build,
        cl15.FILES,
    ),
    "glue": Text(
        "SST-2, MRPC, CoLA and MNLI, with five levels of prompts and their own metrics.",
        4,
        glue.build,
        glue.FILES,
    ),
}
"""Name to stream."""

OWN: dict[str, Text] = {
    "corpora": Text("Your own text: a file or folder for each domain, in order.", 0, _own_corpora),
    "tasks": Text("Your own tasks: a folder for each, with train and test.", 0, _own_tasks),
    "trace": Text("TRACE's eight tasks, from the benchmark's own folders.", 8, trace.build),
    "glue": Text("GLUE's tasks, from the files that GLUE distributes.", 4, _own_glue),
}
"""What `KIND:PATH` does, by kind."""
