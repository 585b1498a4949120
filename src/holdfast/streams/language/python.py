"""Two kinds of text that every Python brings: its documentation, and its standard library.

The documentation is English prose: the language reference as `help()` shows it, and the docstrings
of the standard library. The code is the library's source without its docstrings, so that the two
share no text. Every tenth document of either is held out, whatever the seed.
"""

from __future__ import annotations

import ast
import hashlib
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from holdfast.errors import DataError

_LEFT_OUT = frozenset(
    {
        "test",
        "tests",
        "site-packages",
        "dist-packages",
        "encodings",  # tables
        "ensurepip",
        "idlelib",
        "lib2to3",
        "pydoc_data",  # the documentation itself
        "turtledemo",
        "__phello__",
    }
)
_SHORTEST = 200
"""Characters below which a document is left out."""
_FEWEST = 50
"""Source files without which a standard library is not there."""


@dataclass(frozen=True)
class Document:
    """One text, read when it is asked for: the whole library takes seconds.

    Attributes:
        name: Of the topic or the file.
        read: How to get at the text.
        held_out: Whether it is kept to test on.
    """

    name: str
    read: Callable[[], str]
    held_out: bool

    @property
    def text(self) -> str:
        """All of it."""
        return self.read()


def held_out(name: str) -> bool:
    """Whether a document is kept to test on: one in ten, by its name."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 10 == 0


def documentation() -> list[Document]:
    """The language reference by topic, and the docstrings of the standard library by file."""
    from pydoc_data.topics import topics

    reference = [_document(f"topic {name}", str, topics[name]) for name in sorted(topics)]
    return reference + [
        _document(f"docstrings of {name}", _part, path, 0) for name, path in files()
    ]


def source() -> list[Document]:
    """The standard library's Python files, without their docstrings."""
    return [_document(name, _part, path, 1) for name, path in files()]


def _document(name: str, read: Callable[..., str], *arguments: Any) -> Document:
    return Document(name, partial(read, *arguments), held_out(name))


def digest() -> str:
    """Of all that this Python brings, by which what was learned from it is told apart."""
    from pydoc_data.topics import topics

    content = hashlib.blake2b(repr(sorted(topics.items())).encode(), digest_size=16)
    for name, path in files():
        content.update(name.encode() + b"\0" + path.read_bytes())
    return content.hexdigest()


@cache
def files() -> list[tuple[str, Path]]:
    """The standard library's files that can be read, in order.

    Raises:
        DataError: If this Python has none.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if _LEFT_OUT.isdisjoint(name.parts) and not name.parts[0].startswith("config-"):
            found.append((name.as_posix(), path))
    if len(found) < _FEWEST:
        raise DataError(
            f"This Python has {len(found)} source files at {root}; its standard library should "
            f"have some hundreds to learn from."
        )
    return found


@cache
def _part(path: Path, which: int) -> str:
    """The docstrings of a file (0), or its code without them (1).

    Nothing if it is not UTF-8, or so short that it says too little.
    """
    try:
        text = _divided(path.read_text(encoding="utf-8"))[which]
        return text if len(text) >= _SHORTEST else ""
    except (SyntaxError, UnicodeDecodeError):
        return ""


def _divided(text: str) -> tuple[str, str]:
    """The docstrings of a file, and its code without them."""
    tree = ast.parse(text)
    lines = text.splitlines()
    docs: list[str] = []
    drop: set[int] = set()
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        said = ast.get_docstring(node)
        if not said:
            continue
        docs.append(said)
        place = node.body[0]
        assert place.end_lineno is not None
        rows = range(place.lineno - 1, place.end_lineno)
        drop.update(rows)
        if len(node.body) == 1:  # a body must not be empty
            lines[rows[0]] = " " * place.col_offset + "..."
            drop.discard(rows[0])
    code = "\n".join(line for row, line in enumerate(lines) if row not in drop)
    return "\n\n".join(docs), code.strip() + "\n"
