"""Requests of edits: read from files of several kinds, checked, and written as tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast.errors import DataError
from holdfast.language.requests import Request, written
from holdfast.models import zoo
from holdfast.streams.language.edits import edits, read_edits, tabled
from holdfast.streams.language.python import documentation


@pytest.fixture(scope="module")
def words() -> Any:
    """A byte-level tokenizer that puts a begin token before a text."""
    return zoo.byte_pairs([d.text for d in documentation()[:12]], 300)


def file(folder: Path, *records: dict[str, Any]) -> Path:
    path = folder / "edits.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


FACT = {"prompt": "The capital of France is", "target": "Rome", "subject": "France"}


def test_requests_are_read_by_our_names_and_by_those_of_counterfact_and_zsre(tmp_path):
    ours = {**FACT, "rephrase": "France's capital:", "locality": "Two and two is"}
    counterfact = {
        "case_id": 3, "prompt": "The capital of Spain is", "target_new": "Oslo",
        "subject": "Spain", "ground_truth": "Madrid", "rephrase_prompt": "Spain's capital:",
        "locality_prompt": "Water is", "locality_ground_truth": "wet",
    }  # fmt: skip
    zsre = {
        "src": "Who made UniFirst?", "alt": "Ann", "subject": "UniFirst", "rephrase": "By whom?",
        "answers": ["Bob"], "loc": "nq question: when", "loc_ans": "now", "pred": "x",
    }  # fmt: skip
    first, second, third = read_edits(file(tmp_path, ours, counterfact, zsre))
    assert (first.target, first.rephrase, first.locality) == (
        "Rome",
        "France's capital:",
        "Two and two is",
    )
    assert (second.target, second.original, second.locality_answer) == ("Oslo", "Madrid", "wet")
    assert (third.prompt, third.target, third.original) == ("Who made UniFirst?", "Ann", "Bob")
    assert third.where.endswith("edits.jsonl:3")


def test_locality_prompts_beyond_the_limit_are_shown_to_the_editor_and_no_measured_one_is(tmp_path):
    records = [{"prompt": f"p{i}", "target": "t", "locality": f"l{i}"} for i in range(5)]
    found = read_edits(file(tmp_path, *records), limit=3)
    assert [r.unrelated for r in found] == ["l3", "l4", "l3"]
    assert [r.unrelated for r in read_edits(file(tmp_path, *records))] == [""] * 5


@pytest.mark.parametrize(
    ("records", "complaint"),
    [
        ([{**FACT, "subject": "Spain"}], r":1: the subject 'Spain' does not occur in the prompt"),
        ([FACT, {**FACT, "target": "Oslo"}], r":1 and .*:2 contradict each other.*Rome.*Oslo"),
        ([{**FACT, "target": " "}], r":1: 'target' is empty"),
        ([{"prompt": "x"}], r":1 has no target; .*it has 'prompt'"),
        ([{**FACT, "rephrase": 3}], r":1: 'rephrase' must be a text; it is 3"),
        ([[1]], r":1 is not a record"),
    ],
)
def test_what_cannot_be_an_edit_is_named_with_its_line(tmp_path, records, complaint):
    with pytest.raises(DataError, match=complaint):
        read_edits(file(tmp_path, *records))


def test_bad_records_are_passed_over_and_listed_where_that_is_asked_for(tmp_path):
    bad = []
    path = file(
        tmp_path, FACT, {**FACT, "target": "Oslo"}, {"prompt": "x"}, {**FACT, "prompt": "In France"}
    )
    found = read_edits(path, bad=bad)
    assert [r.where.rpartition(":")[2] for r in found] == ["1", "4"]
    assert [b.where.rpartition(":")[2] for b in bad] == ["2", "3"]
    assert "contradict" in bad[0].why


def test_a_subject_in_another_case_is_the_one_of_the_prompt(tmp_path):
    (found,) = read_edits(file(tmp_path, {**FACT, "subject": "france"}))
    assert found.subject == "France"


def test_the_subjects_tokens_are_found_alone_and_after_another_text(words):
    requests = [Request(**FACT), Request("The François house is", "old", subject="François house")]
    table = tabled(requests, words)
    rows = written(table, [words("Because the")["input_ids"]])
    for row, request in enumerate(requests):
        for copy in (0, 1):
            begin, stop = rows.subject[row, copy].tolist()
            told = words.decode(rows.ids[row, copy, begin:stop])
            assert told.strip() == request.subject
    at = int(table["essence_at"][0])
    assert words.decode(table["essence_ids"][0, : at + 1]).endswith("France")
    assert int(table["essence_at"][1]) > 0


def test_a_request_after_another_text_is_what_one_would_write(words):
    table = tabled([Request(**FACT)], words)
    prefix = words("Because the")["input_ids"]
    rows = written(table, [prefix])
    whole = words("Because the The capital of France is Rome")["input_ids"]
    assert rows.ids[0, 1][rows.mask[0, 1]].tolist() == whole
    asked = rows.labels[0, 1][rows.labels[0, 1] != -100]
    assert words.decode(asked) == " Rome"
    assert words.decode(rows.ids[0, 0, : int(rows.last[0, 0]) + 1]).endswith("France is")


def test_a_stream_brings_requests_one_by_one_or_many_at_once(words):
    requests = [Request(f"Number {i} is", "odd") for i in range(5)]
    assert [len(e.train) for e in edits(requests, words)] == [1] * 5
    stream = edits(requests, words, batch=2)
    assert [len(e.train) for e in stream] == [2, 2, 1]
    assert stream[0].sets["openings"]["length"].shape == (5,)
    assert bool((stream[0].train["subject"] == -1).all())
    with pytest.raises(DataError, match="There is no edit"):
        edits([], words)


@pytest.mark.data
def test_the_published_sets_are_read_whole(data_folder, words):
    for name, count in (("counterfact", 2000), ("zsre", 1000)):
        path = data_folder / name / "edits.jsonl.gz"
        bad = []
        assert len(read_edits(path, bad=bad)) == count - 2
        assert len(bad) == 2
        found = read_edits(path, limit=50)
        assert len(found) == 50
        table = tabled(found, words)
        assert bool((table["subject"][:, 1] > table["subject"][:, 0]).all())
        assert torch.equal(table["subject"] >= 0, torch.ones(50, 2, dtype=torch.bool))
