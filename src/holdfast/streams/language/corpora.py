"""Corpora: domains of text after one another, packed into full rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from holdfast.data import Table
from holdfast.errors import DataError, UsageError
from holdfast.language.encode import encode
from holdfast.language.fields import Sample
from holdfast.stream import Experience, Stream
from holdfast.streams.language.domains import Domain
from holdfast.streams.language.python import Document


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
    _whole("known", known, 0)
    _whole("length", length, 2)
    for option, value in (("limit", limit), ("test_limit", test_limit)):
        if value is not None:
            _whole(option, value, 1)
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
    texts = (Sample(text=documents[i].text, where=documents[i].name) for i in order)
    rest = (sample for sample in texts if str(sample.text).strip())
    taken: list[Sample] = []
    characters, enough = 0, float("inf") if rows is None else 4 * rows * length
    while True:  # no more is read than is asked for
        for sample in rest:
            taken.append(sample)
            characters += len(str(sample.text))
            if characters >= enough:
                break
        else:
            enough = float("inf")
        if not taken:
            raise DataError(f"{what.capitalize()} are all empty.")
        try:
            table = encode(taken, tokenizer, length=length, pack=True).table
        except DataError as error:
            if enough == float("inf"):
                raise DataError(f"{what.capitalize()}: {error}") from error
        else:
            if rows is None:
                return table
            if enough == float("inf") or len(table) >= rows:
                return table.take(slice(0, rows))
        enough *= 2


def _whole(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(f"{name} must be a whole number from {least}; given: {value!r}.")
