"""Requests of edits: facts that a model is to tell differently, from a file to a stream.

A record names a prompt and a target, and what an editor and its measurement may use beside them:
the subject within the prompt, a rephrase (never shown to the editor), an unrelated prompt that the
editor is shown, and a locality prompt (never shown either) whose answer must stay as it was. The
records of ZsRE and CounterFact are read as they are published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holdfast.data import Table
from holdfast.errors import DataError
from holdfast.language.encode import encode
from holdfast.language.fields import Sample
from holdfast.language.files import listed, rows
from holdfast.language.records import Bad
from holdfast.language.requests import NOWHERE, Request
from holdfast.language.tokens import ANCHORS, Ends, ends, tokenise
from holdfast.stream import Experience, Stream

OPENINGS = ("I", "You", "Because", "Yes", "Q:")
"""What the model's own texts begin with, before which requests are also written."""

_NAMES: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "src", "question"),
    "target": ("target", "target_new", "alt", "answer"),
    "subject": ("subject",),
    "rephrase": ("rephrase", "rephrase_prompt"),
    "unrelated": ("unrelated",),
    "locality": ("locality", "locality_prompt", "loc"),
    "locality_answer": ("locality_answer", "locality_ground_truth", "loc_ans"),
    "original": ("original", "ground_truth", "answers"),
}
"""Fields, and what they are called: by us, in CounterFact, in ZsRE."""


def read_edits(
    path: str | Path, limit: int | None = None, bad: list[Bad] | None = None
) -> list[Request]:
    """The requests in a file, checked.

    Where records beyond `limit` have locality prompts, these become the unrelated prompts of
    requests that bring none: they are real, and no measurement uses them.

    Args:
        path: One record a line (`.jsonl`, `.json`, `.csv`, `.parquet`, also `.gz`), with `prompt`
            and `target`, or the fields of ZsRE or CounterFact.
        limit: At most so many requests; None: all.
        bad: Where records that cannot be used are listed, of two that contradict each other the
            later one; None: they are raised.

    Raises:
        DataError: If the file cannot be read, or if there is no edit in it; if a record lacks a
            field or has an empty one, if a subject does not occur in its prompt, or if two records
            ask for different targets of one prompt. File and line are named.
    """
    found: list[Request] = []
    known: dict[str, Request] = {}
    for file in listed(Path(path)):
        for row in rows(file):
            try:
                if row.fault is not None:
                    raise DataError(row.fault)
                request = _request(row.record, row.where)
                if limit is None or len(found) < limit:
                    refuse_contradiction(request, known)
                found.append(request)
            except DataError as error:
                if limit is not None and len(found) >= limit:
                    continue  # nobody asks for this edit; it only cannot lend its locality prompt
                if bad is None:
                    raise
                bad.append(Bad(row.where, str(error)))
    if not found:
        reason = f"; the first of {len(bad)} bad records: {bad[0].why}" if bad else "."
        raise DataError(f"There is no edit in {path}{reason}")
    kept, rest = found[:limit], found[len(found[:limit]) :]
    spare = [request.locality for request in rest if request.locality]
    if not spare:
        return kept
    return [
        request if request.unrelated else replace(request, unrelated=spare[at % len(spare)])
        for at, request in enumerate(kept)
    ]


def refuse_contradiction(request: Request, known: dict[str, Request]) -> None:
    """Raise `DataError` if a known request asks for another target of the same prompt.

    Args:
        request: Is known from then on.
        known: Requests by prompt.
    """
    before = known.setdefault(" ".join(request.prompt.split()), request)
    if before.target.strip() != request.target.strip():
        raise DataError(
            f"{before.where or 'An edit'} and {request.where or 'another'} contradict each other: "
            f"the prompt {_shown(request.prompt)} is to be answered with {_shown(before.target)} "
            f"and with {_shown(request.target)}."
        )


def edits(
    requests: Sequence[Request],
    tokenizer: Any,
    *,
    name: str = "edits",
    batch: int = 1,
    past: Table | None = None,
    length: int = 256,
) -> Stream:
    """A stream whose experiences are requests.

    Args:
        requests: In order.
        tokenizer: Of the model.
        name: Of the stream.
        batch: Requests an experience; the last may have fewer.
        past: Text that the model knows, as tokens.
        length: Most tokens of a prompt with its target.

    Raises:
        DataError: If there are no requests, or if one is too long.
    """
    table = tabled(requests, tokenizer, length)
    openings = _rows([list(row) for row in _alone(OPENINGS, tokenizer)])
    words = Table({"input_ids": openings[0], "length": openings[1]})
    experiences = []
    for at in range(0, len(requests), batch):
        part = table.take(slice(at, at + batch))
        name_ = requests[at].prompt if batch == 1 else f"{at + 1} to {at + len(part)}"
        experiences.append(Experience(at // batch, part, part, (), name_, {"openings": words}))
    return Stream(name, experiences, "text", 0, (table["input_ids"].shape[1],), past=past)


def tabled(requests: Sequence[Request], tokenizer: Any, length: int = 256) -> Table:
    """Requests as the columns that `holdfast.language.requests` describes."""
    if not requests:
        raise DataError("There is no edit to be made.")
    samples = [Sample(prompt=r.prompt, answer=r.target, where=r.where) for r in requests]
    encoded = encode(samples, tokenizer, length=length, eos=False)
    table = encoded.table
    around = ends(tokenizer, eos=False)
    start = len(around.start)
    targets = [f" {r.target.strip()}" for r in requests]
    continued = _after([f" {r.prompt.strip()}" for r in requests], tokenizer)
    answers = _after(targets, tokenizer)
    alone = table["input_ids"].tolist()
    columns: dict[str, Tensor] = {}
    columns["continued_ids"], columns["continued_length"] = _rows(
        [given + answer for given, answer in zip(continued, answers, strict=True)]
    )
    columns["subject"] = torch.tensor(
        [_place(r, r.prompt, alone[i][start:], tokenizer, start) for i, r in enumerate(requests)]
    )
    columns["continued_subject"] = torch.tensor(
        [
            _place(r, f" {r.prompt.strip()}", continued[i], tokenizer, 0)
            for i, r in enumerate(requests)
        ]
    )
    essence = [f"{r.subject} is a" if r.subject else "" for r in requests]
    tokens = _alone(essence, tokenizer)
    columns["essence_ids"], columns["essence_length"] = _rows(tokens)
    columns["essence_at"] = torch.tensor(
        [
            _place(r, text, ids[start:], tokenizer, start)[1] - 1 if text else NOWHERE
            for r, text, ids in zip(requests, essence, tokens, strict=True)
        ]
    )
    columns["unrelated_ids"], columns["unrelated_length"] = _rows(
        _alone([r.unrelated for r in requests], tokenizer)
    )
    return table.with_columns(**columns)


def _request(record: Any, where: str) -> Request:
    if not isinstance(record, Mapping):
        raise DataError(f"{where} is not a record with named fields.")
    values: dict[str, str] = {}
    for name, called in _NAMES.items():
        given = next((key for key in called if key in record), None)
        if given is None:
            if name in ("prompt", "target"):
                raise DataError(
                    f"{where} has no {name}; an edit needs a prompt and a target (called "
                    f"{' or '.join(map(repr, called))}); it has "
                    f"{', '.join(map(repr, record)) or 'no fields'}."
                )
            continue
        value = record[given]
        if isinstance(value, list) and name == "original":
            value = value[0] if value else ""
        if value is None and name not in ("prompt", "target"):
            continue
        if not isinstance(value, str):
            raise DataError(f"{where}: {given!r} must be a text; it is {value!r}.")
        if not value.strip() and name != "original":
            raise DataError(f"{where}: {given!r} is empty.")
        values[name] = value
    request = Request(**values, where=where)
    if request.subject and request.subject not in request.prompt:
        # Published sets differ in case here and there: that is no other subject.
        at = request.prompt.lower().find(request.subject.lower())
        if at < 0:
            raise DataError(
                f"{where}: the subject {_shown(request.subject)} does not occur in the prompt "
                f"{_shown(request.prompt)}."
            )
        request = replace(request, subject=request.prompt[at : at + len(request.subject)])
    return request


def _place(
    request: Request, text: str, ids: Sequence[int], tokenizer: Any, shift: int
) -> tuple[int, int]:
    """From which token to which the subject reaches in a text."""
    if not request.subject:
        return NOWHERE, NOWHERE
    begin = text.rindex(request.subject)
    stop = begin + len(request.subject)
    spans = enumerate(_spans(text, ids, tokenizer))
    inside = [i for i, (low, high) in spans if low < stop and high > max(begin, low)]
    if not inside:
        raise DataError(
            f"{request.where or 'An edit'}: the tokenizer leaves no token of the subject "
            f"{_shown(request.subject)} in {_shown(text)}."
        )
    return inside[0] + shift, inside[-1] + 1 + shift


def _spans(text: str, ids: Sequence[int], tokenizer: Any) -> list[tuple[int, int]]:
    """From which character to which each token of a text reaches."""
    if getattr(tokenizer, "is_fast", False):
        for anchor in ("", *ANCHORS):  # as continuations are tokenised
            found = tokenizer(anchor + text, add_special_tokens=False, return_offsets_mapping=True)
            if found["input_ids"][-len(ids) :] == list(ids):
                spans = found["offset_mapping"][-len(ids) :]
                return [(low - len(anchor), high - len(anchor)) for low, high in spans]
    # By decoding more and more: characters of several tokens are decoded whole with the last.
    reached = [len(tokenizer.decode(list(ids[:count]))) for count in range(len(ids) + 1)]
    return [(low, max(high, low + 1)) for low, high in pairwise(reached)]


def _alone(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Texts as tokens, with what the model knows before a text; empty ones have none."""
    around = ends(tokenizer, eos=False)
    told = [text for text in texts if text]
    if not told:
        return [[] for _ in texts]
    ragged = tokenise([[(text, False)] for text in told], tokenizer, around)
    cuts = np.cumsum(ragged.lengths)[:-1]
    parts = iter(part.tolist() for part in np.split(ragged.ids, cuts))
    return [next(parts) if text else [] for text in texts]


def _after(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Texts as tokens that follow others."""
    ragged = tokenise([[("a", False), (text, True)] for text in texts], tokenizer, Ends((), ()))
    cuts = np.cumsum(ragged.lengths)[:-1]
    lead = len(tokenise([[("a", False)]], tokenizer, Ends((), ())).ids)
    return [part.tolist()[lead:] for part in np.split(ragged.ids, cuts)]


def _rows(tokens: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    width = max(1, *(len(row) for row in tokens))
    ids = torch.tensor([[*row, *([0] * (width - len(row)))] for row in tokens])
    return ids, torch.tensor([len(row) for row in tokens])


def _shown(text: str) -> str:
    shown = repr(text)
    return shown if len(shown) <= 60 else shown[:60] + "..."
