"""Reading: the log-probability of what is asked, in batches by a budget of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from holdfast.language.questions import Question
from holdfast.losses import token_logprobs


@dataclass(frozen=True)
class Reading:
    """What a model makes of some questions, one entry each.

    Attributes:
        logprob: Log-probability of all tokens asked, in nats.
        exact: Whether each of them is the likeliest at its place.
        agreed: How many are, from the first on.
        instead: The likeliest token where the first is not; -1 if all are.
        certainty: Log-probability of the likeliest tokens, up to and with that one.
    """

    logprob: NDArray[np.float64]
    exact: NDArray[np.bool_]
    agreed: NDArray[np.int64]
    instead: NDArray[np.int64]
    certainty: NDArray[np.float64]

    def __getitem__(self, rows: Any) -> Reading:
        return Reading(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def read_questions(model: Any, questions: Sequence[Question], budget: int) -> Reading:
    """Read all questions, those of similar length together.

    Args:
        model: In evaluation mode, without gradients.
        questions: Any number.
        budget: Tokens of a pass, padding included; a longer row is read alone.
    """
    seq2seq = bool(model.config.is_encoder_decoder)
    count = len(questions)
    found = Reading(
        np.zeros(count),
        np.zeros(count, dtype=bool),
        np.zeros(count, dtype=np.int64),
        np.full(count, -1),
        np.zeros(count),
    )
    for rows in by_length(questions, budget, seq2seq):
        of = [questions[i] for i in rows]
        logits, labels = (_decoded if seq2seq else _continued)(model, of)
        for name, values in _judged(logits, labels, len(of)).items():
            getattr(found, name)[rows] = values.cpu().numpy()
    return found


def by_length(questions: Sequence[Question], budget: int, seq2seq: bool) -> Iterator[list[int]]:
    """Row numbers in batches, longest first, so that what does not fit fails at once."""
    lengths = [
        max(len(q.given), len(q.asked)) if seq2seq else len(q.given) + len(q.asked)
        for q in questions
    ]
    batch: list[int] = []
    for i in sorted(range(len(questions)), key=lambda i: -lengths[i]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _continued(model: Any, questions: Sequence[Question]) -> tuple[Tensor, Tensor]:
    """Logits of a causal model before each label, and labels."""
    ids, mask = padded([q.given + q.asked for q in questions], 0, model.device)
    labels, _ = padded([[-100] * len(q.given) + q.asked for q in questions], -100, model.device)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return logits[:, :-1], labels[:, 1:]


def _decoded(model: Any, questions: Sequence[Question]) -> tuple[Tensor, Tensor]:
    """Logits of a decoder at each label, and labels."""
    ids, mask = padded([q.given for q in questions], 0, model.device)
    labels, _ = padded([q.asked for q in questions], -100, model.device)
    return model(input_ids=ids, attention_mask=mask, labels=labels).logits, labels


def padded(
    rows: Sequence[Sequence[int]], value: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Rows filled up on the right with `value`, and where they have tokens of their own."""
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    padded = torch.full(mask.shape, value)
    padded[mask] = torch.tensor([token for row in rows for token in row])
    return padded.to(device), mask.long().to(device)


def _judged(logits: Tensor, labels: Tensor, count: int) -> dict[str, Tensor]:
    """Everything in a `Reading`, from the places with labels only."""
    asked = labels != -100
    row, _ = asked.nonzero(as_tuple=True)
    picked, wanted = logits[asked].float(), labels[asked]
    place = (asked.cumsum(1) - 1)[asked]
    own = token_logprobs(picked, wanted)
    top, likeliest = picked.max(-1)
    best = own + (top - picked.gather(1, wanted[:, None])[:, 0])
    total = asked.sum(1)
    # Among equals the label counts: whether it is the first of them in the vocabulary says nothing.
    missed = best > own
    agreed = total.scatter_reduce(0, row[missed], place[missed], "amin")
    known = place <= agreed[row]
    first = missed & (place == agreed[row])
    zeros = torch.zeros(count, dtype=torch.float64, device=logits.device)
    instead = torch.full_like(total, -1)
    instead[row[first]] = likeliest[first]
    return {
        "logprob": zeros.index_add(0, row, own.double()),
        "exact": agreed == total,
        "agreed": agreed,
        "instead": instead,
        "certainty": zeros.index_add(0, row[known], best[known].double()),
    }
