"""Corpora: domains of text after one another, packed into full rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from holdfast.data import Table
from holdfast.errors import DataError, UsageError
from holdfast.stream import Experience, Stream
from holdfast.streams.language import python
from holdfast.streams.language.python import Document

IGNORED = -100
SHORTEST = 200
"""Characters below which a document says too little."""

Domain = tuple[str, Callable[[], Sequence[Document]]]
"""A name, and how to read its documents."""


def docs_code() -> list[Domain]:
    """Python's documentation, then the source of its standard library."""
    return [("docs", python.documentation), ("code", python.source)]


def corpora(
    domains: Sequence[Domain],
    tokenizer: Any,
    name: str = "corpora",
    seed: int = 0,
    *,
    known: int = 0,
    length: int = 128,
    limit: int | None = 2000,
    test_limit: int | None = 128,
) -> Stream:
    """A stream whose experiences are domains of text, in rows full of tokens.

    Args:
        domains: A name and the documents of each.
        tokenizer: Of the model that is to learn.
        name: Of the stream.
        seed: Draws the order of documents, and with it what `limit` keeps.
        known: So many of the first domains are what the model knows already: they are scored but
            not trained on, and the stream's `past` holds their training rows.
        length: Tokens a row, at most the model's context.
        limit: Training rows a domain; None: all.
        test_limit: Likewise, test rows.

    Raises:
        UsageError: If an argument is out of range.
        DataError: If a domain does not fill a row.
    """
    for option, value, least in (
        ("known", known, 0),
        ("length", length, 2),
        ("limit", limit, 1),
        ("test_limit", test_limit, 1),
    ):
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (value is None and "limit" in option) and not (whole and value >= least):
            raise UsageError(f"{option} must be a whole number from {least}; given: {value!r}.")
    if known >= len(domains):
        raise UsageError(
            f"known must leave a domain to learn: {name} has {len(domains)}; given: {known}."
        )
    experiences = []
    for index, (label, read) in enumerate(domains):
        documents = read()
        train, test = (
            packed(
                [d for d in documents if d.held_out == held_out],
                tokenizer,
                length,
                most,
                seed,
                f"the {part} documents of {label}",
            )
            for held_out, most, part in ((False, limit, "training"), (True, test_limit, "test"))
        )
        epochs = 0 if index < known else None
        experiences.append(Experience(index, train, test, (), label, epochs=epochs))
    past = Table.concat([e.train for e in experiences[:known]]) if known else None
    return Stream(name, experiences, "text", 0, (length,), past=past)


def packed(
    documents: Sequence[Document],
    tokenizer: Any,
    length: int,
    rows: int | None,
    seed: int,
    what: str,
) -> Table:
    """Documents in an order drawn by seed, end to end, cut into rows of `length` tokens."""
    order = torch.randperm(len(documents), generator=torch.Generator().manual_seed(seed)).tolist()
    tokens: list[int] = []
    for at in range(0, len(order), 16):  # no more is tokenised than is asked for
        texts = [text for i in order[at : at + 16] if len(text := documents[i].text) >= SHORTEST]
        if not texts:
            continue
        for ids in tokenizer(texts, return_attention_mask=False)["input_ids"]:
            tokens += [*ids, tokenizer.eos_token_id]
        if rows is not None and len(tokens) >= rows * length:
            break
    full = len(tokens) // length if rows is None else min(rows, len(tokens) // length)
    if not full:
        raise DataError(
            f"{what.capitalize()} have {len(tokens)} tokens together, which do not fill one row "
            f"of {length}; give a smaller length or more text."
        )
    ids = torch.tensor(tokens[: full * length]).view(full, length)
    labels = ids.clone()
    labels[:, 0] = IGNORED  # nothing comes before it in its row
    return Table({"input_ids": ids, "labels": labels})
