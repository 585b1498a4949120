"""Corpora: domains after one another, in full rows, held-out documents apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from holdfast.errors import DataError, UsageError
from holdfast.streams.language.corpora import corpora
from holdfast.streams.language.domains import Domain, docs_code
from holdfast.streams.language.python import Document

HELD_OUT = "n"
KEPT = [f"k{i}" for i in range(12)]


def domain(name: str, word: str) -> Domain:
    documents = [
        Document(k, lambda k=k: f"{word} {k} " * 60, k == HELD_OUT) for k in (*KEPT, HELD_OUT)
    ]
    return name, lambda: documents


def test_rows_are_full_and_every_token_but_the_first_of_a_row_is_asked_for(tokenizer: Any) -> None:
    stream = corpora([domain("a", "one"), domain("b", "two")], tokenizer, length=32, limit=None)
    assert (stream.scenario, stream.classes, [e.name for e in stream]) == ("text", 0, ["a", "b"])
    for experience in stream:
        for table in (experience.train, experience.test):
            assert set(table.columns) == {"input_ids", "labels"}
            assert bool((table["labels"][:, 0] == -100).all())
            assert torch.equal(table["labels"][:, 1:], table["input_ids"][:, 1:])


def test_every_document_occurs_once_between_its_begin_and_end_tokens(tokenizer: Any) -> None:
    stream = corpora([domain("a", "one")], tokenizer, length=32, limit=None)
    ids = stream[0].train["input_ids"].flatten()
    begins = (ids == tokenizer.bos_token_id).sum()
    assert begins == len(KEPT)
    text = tokenizer.decode(ids, skip_special_tokens=True)
    assert sum(f"one {name} " in text for name in KEPT) >= len(KEPT) - 1  # the end may be cut
    assert f"one {HELD_OUT} " not in text
    assert f"one {HELD_OUT} " in tokenizer.decode(stream[0].test["input_ids"].flatten())


def test_limits_hold_and_the_order_of_documents_follows_the_seed(tokenizer: Any) -> None:
    build = [
        corpora([domain("a", "one")], tokenizer, seed=seed, length=16, limit=9, test_limit=2)
        for seed in (0, 0, 1)
    ]
    assert [len(s[0].train) for s in build] == [9, 9, 9]
    assert [len(s[0].test) for s in build] == [2, 2, 2]
    rows = [s[0].train["input_ids"] for s in build]
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


def test_known_domains_are_scored_but_not_trained_on_and_are_the_past(tokenizer: Any) -> None:
    domains = [domain("a", "one"), domain("b", "two")]
    stream = corpora(domains, tokenizer, known=1, length=32)
    assert [e.epochs for e in stream] == [0, None]
    assert stream.past is not None
    assert torch.equal(stream.past["input_ids"], stream[0].train["input_ids"])
    assert corpora(domains, tokenizer, length=32).past is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 1}, "length must be a whole number from 2; given: 1"),
        ({"limit": 0}, "limit must be a whole number from 1; given: 0"),
        ({"known": 1}, "known must leave a domain to learn"),
    ],
)
def test_arguments_out_of_range_are_refused(
    tokenizer: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        corpora([domain("a", "one")], tokenizer, **arguments)


def test_a_domain_that_does_not_fill_a_row_is_named(tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"test documents of a.*do not fill one row"):
        corpora([domain("a", "one")], tokenizer, length=2000, limit=1)


def test_documentation_and_code_are_built_from_this_python(tokenizer: Any) -> None:
    stream = corpora(docs_code(), tokenizer, known=1, length=64, limit=20, test_limit=10)
    docs, code = (tokenizer.decode(e.train["input_ids"].flatten()) for e in stream)
    assert code.count("def ") > docs.count("def ")
    assert code.count("self.") > docs.count("self.")
