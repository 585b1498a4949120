"""Requests of edits as rows of tokens: alone, and after texts that the model wrote itself.

A table of requests has the columns of any prompt with its answer (`input_ids`, `labels`,
`attention_mask`, `length`), and beside them

- `continued_ids`, `continued_length`: prompt and target as they are written after another text;
- `subject`, `continued_subject`: where the subject begins and ends in the two, -1 for no subject;
- `essence_ids`, `essence_length`, `essence_at`: "SUBJECT is a", and the subject's last token there;
- `unrelated_ids`, `unrelated_length`: a prompt that has nothing to do with the request.

A table without them holds requests that name neither subject nor unrelated prompt, and that are
written after another text as they are alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from holdfast.data import Batch, Table
from holdfast.evaluation import undisturbed
from holdfast.language.objective import IGNORED

if TYPE_CHECKING:
    from holdfast.stream import Experience

NOWHERE = -1


@dataclass(frozen=True)
class Request:
    """One edit.

    Attributes:
        prompt: What is asked.
        target: What the model is to answer.
        subject: What the fact is about: a part of the prompt; empty if it is not told.
        rephrase: The same asked in other words; empty for none.
        unrelated: Something else, shown to the editor so that it leaves it alone; empty for none.
        locality: Something else, whose answer is measured and must not change; empty for none.
        locality_answer: Its right answer, if known: it says how many tokens are measured.
        original: What the target was before, if known.
        where: File and line.
    """

    prompt: str
    target: str
    subject: str = ""
    rephrase: str = ""
    unrelated: str = ""
    locality: str = ""
    locality_answer: str = ""
    original: str = ""
    where: str = ""

    def to_dict(self) -> dict[str, str]:
        """Its fields that are not empty."""
        return {name: value for name, value in vars(self).items() if value and name != "where"}


@dataclass(frozen=True)
class Written:
    """Requests, each written alone first, then once after every prefix.

    Attributes:
        ids: Tokens, `[requests, copies, width]`.
        mask: Which of them are real.
        labels: Those of the target, -100 elsewhere.
        subject: Where the subject begins and ends, `[requests, copies, 2]`; -1 without one.
    """

    ids: Int[Tensor, "requests copies width"]
    mask: Bool[Tensor, "requests copies width"]
    labels: Int[Tensor, "requests copies width"]
    subject: Int[Tensor, "requests copies 2"]

    @property
    def prompt(self) -> Bool[Tensor, "requests copies width"]:
        """Which tokens are of prompts (and of what precedes them)."""
        return self.mask & ((self.labels != IGNORED).cumsum(-1) == 0)

    @property
    def last(self) -> Int[Tensor, "requests copies"]:
        """The last token of each prompt."""
        return self.prompt.sum(-1) - 1

    def take(self, rows: Tensor) -> Written:
        """Some of the requests."""
        return Written(self.ids[rows], self.mask[rows], self.labels[rows], self.subject[rows])

    def batch(self) -> Batch:
        """All rows as one batch, request after request."""
        return {
            "input_ids": self.ids.flatten(0, 1),
            "attention_mask": self.mask.flatten(0, 1).long(),
            "labels": self.labels.flatten(0, 1),
        }


def written(table: Table, prefixes: Sequence[Sequence[int]]) -> Written:
    """The requests of a table, alone and after each of some texts.

    Args:
        table: As above.
        prefixes: Tokens of the texts.
    """
    count = len(table)
    alone = _tokens(table, "input_ids", "length")
    after = _tokens(table, "continued_ids", "continued_length")
    targets = [[i for i in row if i != IGNORED] for row in table["labels"].tolist()]
    subjects = _places(table, "subject", count)
    continued = _places(table, "continued_subject", count)
    rows, labels, places = [], [], []
    for r in range(count):
        for prefix in ([], *prefixes):
            row = [*prefix, *after[r]] if prefix else alone[r]
            asked = min(len(targets[r]), len(row) - 1)
            begin, stop = continued[r] if prefix else subjects[r]
            shift = len(prefix) if begin != NOWHERE else 0
            rows.append(row)
            labels.append([IGNORED] * (len(row) - asked) + row[len(row) - asked :])
            places.append((begin + shift, stop + shift))
    width, copies, device = max(map(len, rows)), 1 + len(prefixes), table.device
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)
    asked_ = torch.tensor([row + [IGNORED] * (width - len(row)) for row in labels], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    mask = torch.arange(width, device=device) < lengths[:, None]
    return Written(
        ids.view(count, copies, width),
        mask.view(count, copies, width),
        asked_.view(count, copies, width),
        torch.tensor(places, device=device).view(count, copies, 2),
    )


def side_rows(table: Table, name: str) -> tuple[Tensor, Tensor]:
    """Tokens and lengths of the rows beside the requests: `unrelated` or `essence`; 0 for none."""
    if f"{name}_ids" not in table:
        empty = torch.zeros(len(table), 1, dtype=torch.long, device=table.device)
        return empty, torch.zeros(len(table), dtype=torch.long, device=table.device)
    return table[f"{name}_ids"], table[f"{name}_length"]


def own_prefixes(
    model: Any, openings: Sequence[Sequence[int]], lengths: Sequence[int] = (5, 10)
) -> list[list[int]]:
    """How the model itself would go on from some openings, by so many tokens each.

    Args:
        model: A causal model.
        openings: Tokens to begin with, each at least one.
        lengths: Tokens to be written after each opening.
    """
    found = []
    with undisturbed(model, device=model.device):
        for length in lengths:
            for opening in openings:
                row = list(opening)
                for _ in range(length):
                    given = torch.tensor([row], device=model.device)
                    row.append(int(model(input_ids=given, use_cache=False).logits[0, -1].argmax()))
                found.append(row)
    return found


def opening_words(experience: Experience) -> list[list[int]]:
    """The tokens that own texts begin with, where the stream names any."""
    given = experience.sets.get("openings")
    if given is None:
        return []
    rows, lengths = given["input_ids"].tolist(), given["length"].tolist()
    return [row[:length] for row, length in zip(rows, lengths, strict=True)]


def openings(model: Any, count: int, seed: int) -> list[list[int]]:
    """What own texts begin with where no words are given: tokens drawn from the vocabulary."""
    drawn = torch.Generator().manual_seed(seed)
    first = [model.config.bos_token_id] if model.config.bos_token_id is not None else []
    words = torch.randint(model.config.get_text_config().vocab_size, (count,), generator=drawn)
    return [[*first, word] for word in words.tolist()]


def _tokens(table: Table, ids: str, length: str) -> list[list[int]]:
    if ids not in table:
        ids, length = "input_ids", "length"
    rows = table[ids].tolist()
    sizes = table[length].tolist() if length in table else [len(row) for row in rows]
    return [row[:size] for row, size in zip(rows, sizes, strict=True)]


def _places(table: Table, name: str, count: int) -> list[list[int]]:
    if name not in table:
        return [[NOWHERE, NOWHERE]] * count
    found: list[list[int]] = table[name].tolist()
    return found
