"""Domains of one's own: files in order, long texts in pieces, every tenth held out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import streams
from holdfast.errors import DataError, UsageError
from holdfast.streams.language import domains


@given(st.text("ab\n", max_size=3000).map(lambda text: text * 20))
def test_pieces_are_the_text_and_none_is_too_long(text: str) -> None:
    pieces = list(domains.pieces_of(text))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= domains.PIECE for piece in pieces)


def test_files_of_a_folder_are_domains_in_the_order_of_their_names(
    tmp_path: Path, tokenizer: Any
) -> None:
    (tmp_path / "1-prose.txt").write_text("A line of prose.\n" * 1000)
    rows = [json.dumps({"text": f"Entry {i} of a list. " * 9}) for i in range(40)]
    (tmp_path / "2-list.jsonl").write_text("\n".join(rows))
    folder = tmp_path / "3-both"
    folder.mkdir()
    (folder / "a.md").write_text("# Heading\n" * 900)
    (folder / "b.txt").write_text("Words and words.\n" * 900)
    stream = streams.build(f"corpora:{tmp_path}?length=32&limit=10", tokenizer=tokenizer)
    assert [e.name for e in stream] == ["1-prose", "2-list", "3-both"]
    assert stream.name == f"corpora:{tmp_path}?length=32&limit=10"
    assert all(e.epochs is None for e in stream)
    again = streams.build(stream.name, tokenizer=tokenizer)
    assert [len(e.train) for e in again] == [len(e.train) for e in stream]


def test_every_tenth_piece_is_held_out_and_of_few_the_last(tmp_path: Path) -> None:
    many, few = tmp_path / "many.jsonl", tmp_path / "few.jsonl"
    many.write_text("\n".join(json.dumps({"text": f"text {i}"}) for i in range(25)))
    few.write_text("\n".join(json.dumps({"text": f"text {i}"}) for i in range(3)))
    for path, held_out in ((many, [9, 19]), (few, [2])):
        ((_, read),) = domains.own(path)
        assert [at for at, d in enumerate(read()) if d.held_out] == held_out


def test_one_short_text_cannot_be_divided(tmp_path: Path) -> None:
    (tmp_path / "only.txt").write_text("Too little.")
    ((_, read),) = domains.own(tmp_path / "only.txt")
    with pytest.raises(DataError, match="domain only is one text of less than 8000 characters"):
        read()


def test_the_first_experiences_can_be_taken(tokenizer: Any) -> None:
    spec = "docs-code(known=0, length=16, limit=4, test_limit=2)"
    stream = streams.build(spec, experiences=1, tokenizer=tokenizer)
    assert [e.name for e in stream] == ["docs"]
    with pytest.raises(UsageError, match="has 2 experiences"):
        streams.build(spec, experiences=3, tokenizer=tokenizer)


def test_what_needs_data_says_what_to_set(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    monkeypatch.delenv("HOLDFAST_DATA", raising=False)
    with pytest.raises(DataError, match="set HOLDFAST_DATA to a folder that holds corpora/"):
        streams.build("english-german", tokenizer=tokenizer)
    assert not streams.entry("english-german").present


@pytest.mark.data
@pytest.mark.parametrize("name", ["english-german", "wikitext-shakespeare"])
def test_corpora_of_the_data_folder_are_two_domains(name: str, tokenizer: Any) -> None:
    stream = streams.build(f"{name}(length=64, limit=50, test_limit=20)", tokenizer=tokenizer)
    assert [e.name for e in stream] == name.split("-")
    assert [(len(e.train), len(e.test)) for e in stream] == [(50, 20)] * 2


def test_arguments_are_checked_before_anything_is_read(tokenizer: Any) -> None:
    with pytest.raises(UsageError, match=r"no argument 'lenght'.*Did you mean 'length'"):
        streams.build("docs-code(lenght=3)", tokenizer=tokenizer)
