"""Reading: the log-probability of what is asked, in batches by a budget of tokens."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from holdfast.language.questions import Question
from holdfast.losses import token_logprobs
from holdfast.models.beside import beside


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
    """Read all questions, those of similar length together, and what they share only once.

    Args:
        model: In evaluation mode, without gradients.
        questions: Any number. Where several have the same tokens given, as the choices of one
            prompt have, a causal model reads these once and goes on from its cache.
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
    read = _decoded if seq2seq else _continued
    order = by_length(questions, budget, seq2seq)
    if not seq2seq and beside(model) is not None and min(len(q.given) for q in questions) > 1:
        read = prompted
    elif not seq2seq and _sharing(model, questions):
        read, order = _shared, by_prompt(questions, budget)
    for rows in order:
        of = [questions[i] for i in rows]
        for name, values in _judged(*read(model, of), len(of)).items():
            getattr(found, name)[rows] = values.cpu().numpy()
    return found


def logits_of(model: Any, questions: Sequence[Question]) -> tuple[Tensor, Tensor]:
    """Logits at the places before labels, and labels, -100 where nothing is asked.

    Args:
        model: Causal or sequence-to-sequence, in evaluation mode.
        questions: As many as fit into one pass.
    """
    return (_decoded if model.config.is_encoder_decoder else _continued)(model, questions)


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


def by_prompt(questions: Sequence[Question], budget: int) -> Iterator[list[int]]:
    """The same, with questions of one prompt next to one another."""
    order = sorted(
        range(len(questions)), key=lambda i: (-len(questions[i].given), questions[i].given)
    )
    batch: list[int] = []
    longest = 0
    for i in order:
        length = len(questions[i].given) + len(questions[i].asked)
        longest = max(longest, length)
        if batch and longest * (len(batch) + 1) > budget:
            yield batch
            batch, longest = [], length
        batch.append(i)
    if batch:
        yield batch


def _continued(model: Any, questions: Sequence[Question]) -> tuple[Tensor, Tensor]:
    """Logits of a causal model before each label, and labels."""
    ids, mask = padded([q.given + q.asked for q in questions], 0, model.device)
    labels, _ = padded([[-100] * len(q.given) + q.asked for q in questions], -100, model.device)
    # The head is by far the widest layer of a small model: it reads no prompts.
    wanted = ids.shape[1] + 1 - min(len(q.given) for q in questions)
    kept = {"logits_to_keep": wanted} if "logits_to_keep" in _takes(model) else {}
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **kept).logits
    return logits[:, :-1], labels[:, 1 + labels.shape[1] - logits.shape[1] :]


def prompted(model: Any, questions: Sequence[Question]) -> tuple[Tensor, Tensor]:
    """The same, prompts read first and answers after them, as they are written.

    A memory beside a model decides on the prompt alone, which only so is apart from the answer.
    """
    # On the left, so that every prompt ends where its answer begins.
    turned, mask = padded([q.given[::-1] for q in questions], 0, model.device)
    ids, mask = turned.flip(1), mask.flip(1)
    takes = _takes(model)
    kept = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
    at = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)} if "position_ids" in takes else {}
    given = model(input_ids=ids, attention_mask=mask, use_cache=True, **kept, **at)
    labels, _ = padded([q.asked for q in questions], -100, model.device)
    first = given.logits[:, -1:]
    if labels.shape[1] == 1:
        return first, labels
    tails, own = padded([q.asked[:-1] or [0] for q in questions], 0, model.device)
    if at:
        steps = torch.arange(tails.shape[1], device=model.device)
        at = {"position_ids": mask.sum(1, keepdim=True) + steps}
    rest = model(
        input_ids=tails,
        attention_mask=torch.cat([mask, own], 1),
        past_key_values=given.past_key_values,
        use_cache=True,
        **at,
    ).logits
    return torch.cat([first, rest], 1), labels


def _shared(model: Any, questions: Sequence[Question]) -> tuple[Tensor, Tensor]:
    """The same, each prompt read once, but for its last token, which all answers begin with."""
    prompts = list(dict.fromkeys(tuple(q.given) for q in questions))
    place = {prompt: i for i, prompt in enumerate(prompts)}
    owner = torch.tensor([place[tuple(q.given)] for q in questions], device=model.device)
    # On the left, so that every prompt ends where its answers begin.
    turned, mask = padded([prompt[-2::-1] for prompt in prompts], 0, model.device)
    ids, mask = turned.flip(1), mask.flip(1)
    takes = _takes(model)
    kept = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
    at = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)} if "position_ids" in takes else {}
    given = model(input_ids=ids, attention_mask=mask, use_cache=True, **kept, **at)
    cache: Any = getattr(given, "past_key_values", None)
    if not _repeatable(cache):
        return _continued(model, questions)
    cache.reorder_cache(owner)
    tails, own = padded([[q.given[-1], *q.asked[:-1]] for q in questions], 0, model.device)
    if at:
        steps = torch.arange(tails.shape[1], device=model.device)
        at = {"position_ids": mask.sum(1)[owner, None] + steps}
    logits = model(
        input_ids=tails,
        attention_mask=torch.cat([mask[owner], own], 1),
        past_key_values=cache,
        use_cache=True,
        **at,
    ).logits
    labels, _ = padded([q.asked for q in questions], -100, model.device)
    return logits, labels


def _sharing(model: Any, questions: Sequence[Question]) -> bool:
    """Whether a prompt has several answers, and the model can be asked them one after another."""
    config = getattr(model, "active_peft_config", None)
    if config is not None and config.is_prompt_learning:  # it has a cache of its own in front
        return False
    distinct = {tuple(q.given) for q in questions}
    return len(distinct) < len(questions) and min(map(len, distinct)) > 1


def _repeatable(cache: Any) -> bool:
    """Whether a cache is one of keys and values alone, of which a row can stand for several."""
    from transformers import cache_utils

    plain = (cache_utils.DynamicLayer, cache_utils.DynamicSlidingWindowLayer)
    return type(cache) is cache_utils.DynamicCache and all(
        type(layer) in plain for layer in cache.layers
    )


def _takes(model: Any) -> Mapping[str, inspect.Parameter]:
    """What the forward pass of a model takes by name, under any adapters."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inspect.signature(base.forward).parameters


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
