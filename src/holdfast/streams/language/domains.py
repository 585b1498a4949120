"""Domains of text: what can be read where, as documents of which every tenth is held out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from holdfast.errors import DataError
from holdfast.streams.language import python
from holdfast.streams.language.python import Document
from holdfast.streams.sources import data_file

Domain = tuple[str, Callable[[], Sequence[Document]]]
"""A name, and how to read its documents."""

PIECE = 8000
"""Characters at which a long text is cut, at the end of a line, so that parts can be held out."""

WIKITEXT = "corpora/wikitext2_valid.txt.gz"
WIKITEXT_TEST = "corpora/wikitext2_test.txt.gz"
SHAKESPEARE = "corpora/tinyshakespeare.txt.gz"
ENGLISH = "corpora/english_novels.jsonl.gz"
GERMAN = "corpora/german_novels.jsonl.gz"
STORIES = "weights/stories260k/model.safetensors"
STORIES_TOLD = 640
"""So many rows are sampled from the model; a tenth of them is held out."""


def docs_code() -> list[Domain]:
    """Python's documentation, then the source of its standard library."""
    return [("docs", python.documentation), ("code", python.source)]


def wikitext_shakespeare() -> list[Domain]:
    """WikiText-2's validation and test parts, then tiny Shakespeare."""
    wikitext = [data_file(WIKITEXT), data_file(WIKITEXT_TEST)]
    return [_files("wikitext", wikitext), _files("shakespeare", [data_file(SHAKESPEARE)])]


def english_german() -> list[Domain]:
    """Nine English novels, then nine German ones."""
    return [_files("english", [data_file(ENGLISH)]), _files("german", [data_file(GERMAN)])]


def stories_shakespeare() -> list[Domain]:
    """Stories that a small Llama tells by itself, then tiny Shakespeare."""
    return [("stories", _stories), _files("shakespeare", [data_file(SHAKESPEARE)])]


def stories_german() -> list[Domain]:
    """Stories that a small Llama tells by itself, then nine German novels."""
    return [("stories", _stories), _files("german", [data_file(GERMAN)])]


def _stories() -> list[Document]:
    from holdfast.models import zoo

    texts = zoo.spoken(data_file(STORIES).parent, STORIES_TOLD, 256)
    return [
        Document(f"story {at}", partial(str, text), at % 10 == 9) for at, text in enumerate(texts)
    ]


def own(path: Path) -> list[Domain]:
    """A domain for each file or folder at `path`, in the order of their names.

    Raises:
        DataError: If there is nothing to read.
    """
    from holdfast.language.files import listed

    if path.is_dir():
        inside = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
        folders = [entry for entry in inside if entry.is_dir()]
        if folders:
            files = [entry for entry in inside if entry.is_file()]
            readable = set(listed(path)) if files else set()
            inside = [entry for entry in inside if entry.is_dir() or entry in readable]
        else:
            inside = listed(path)
        return [_files(entry.name.split(".")[0], [entry]) for entry in inside]
    return [_files(path.name.split(".")[0], listed(path))]


def _files(name: str, paths: Sequence[Path]) -> Domain:
    return name, partial(_documents, name, paths)


def _documents(name: str, paths: Sequence[Path]) -> list[Document]:
    """The texts in files, long ones in pieces, every tenth held out."""
    from holdfast.language.records import stream

    pieces = [
        (sample.where, piece)
        for path in paths
        for sample in stream(path)
        for piece in pieces_of(sample.joined())
    ]
    if len(pieces) < 2:
        raise DataError(
            f"The domain {name} is one text of less than {PIECE} characters; two are needed, one "
            "to learn from and one to test on."
        )
    tenth = min(10, len(pieces))
    return [
        Document(f"{where}, piece {at}", partial(str, text), at % tenth == tenth - 1)
        for at, (where, text) in enumerate(pieces)
    ]


def pieces_of(text: str) -> Iterator[str]:
    """A text in pieces of about `PIECE` characters, cut where lines end.

    Example:
        >>> [len(piece) for piece in pieces_of("a line of text\\n" * 1000)]
        [7995, 7005]
    """
    start = 0
    while len(text) - start > PIECE:
        stop = text.rfind("\n", start, start + PIECE) + 1
        stop = stop if stop > start else start + PIECE
        yield text[start:stop]
        start = stop
    if start < len(text):
        yield text[start:]
