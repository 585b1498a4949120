"""Text from a model: answers to prompts, and free samples.

The loop is transformers' own `generate`; what is added is that it answers the same with whatever
generation settings a checkpoint carries, that chance is drawn here (from a seed, without touching
the global state, and one draw per prompt and token, so that the size of batches changes nothing
but rounding), and that the model is left as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.data import Table
from holdfast.errors import DataError, UsageError, at_least
from holdfast.evaluation import undisturbed


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    *,
    max_new_tokens: int = 64,
    batch_size: int = 16,
    temperature: float = 0.0,
    seed: int = 0,
    stop: str | Sequence[str] | None = None,
) -> list[str]:
    """The text with which a model goes on from each prompt.

    Args:
        model: A causal or sequence-to-sequence model of transformers, or a PEFT model.
        tokenizer: Its tokenizer.
        prompts: Texts, which the tokenizer encodes in its own way, or token ids as they are to be
            fed.
        max_new_tokens: At most so many tokens; an end token ends sooner.
        batch_size: Prompts at a time, of similar length.
        temperature: 0 takes the likeliest token; above, tokens are drawn.
        seed: Of the draws.
        stop: Texts at which generation ends; they are not part of the result.

    Returns:
        New text only, in the order of the prompts.

    Raises:
        DataError: If a prompt is empty, or is too long for the model's context.
    """
    at_least(1, max_new_tokens=max_new_tokens, batch_size=batch_size)
    if temperature < 0:
        raise UsageError(f"temperature must be at least 0; given: {temperature}.")
    stops = [stop] if isinstance(stop, str) else list(stop or ())
    rows = [tokenizer(p)["input_ids"] if isinstance(p, str) else list(p) for p in prompts]
    _check(model, rows, max_new_tokens)
    chance = None
    if temperature > 0:
        drawn = torch.Generator().manual_seed(seed)
        chance = torch.rand(len(rows), max_new_tokens, generator=drawn, dtype=torch.float64)
    ends = _ends(model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (ends or [0])[0]
    settings = {"max_new_tokens": max_new_tokens, "eos_token_id": ends or None, "pad_token_id": pad}
    texts = [""] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    with _plainly(model, settings), undisturbed(model, device=model.device):
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            ids, mask = _left_padded([rows[i] for i in chosen], pad)
            processors = [] if chance is None else [_Drawn(chance[chosen], temperature)]
            made = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                logits_processor=processors,
                **({"stop_strings": stops, "tokenizer": tokenizer} if stops else {}),
            )
            new = made if model.config.is_encoder_decoder else made[:, ids.shape[1] :]
            decoded = tokenizer.batch_decode(new.cpu(), skip_special_tokens=True)
            for i, text in zip(chosen, decoded, strict=True):
                texts[i] = _until(text, stops)
    return texts


def sample_tokens(
    model: Any,
    rows: int,
    length: int,
    *,
    seed: int,
    temperature: float = 1.0,
    batch_size: int = 32,
    begin: int | Tensor | None = None,
) -> Tensor:
    """Token rows drawn freely from a causal model: what it would say of itself.

    An end token does not end a row: the model goes on with whatever it takes to follow.

    Args:
        model: A causal model of transformers, or a PEFT model.
        rows: How many.
        length: Tokens a row, the first included.
        seed: Of the draws.
        temperature: Divides the logits; above 0.
        batch_size: Rows at a time.
        begin: The first token of every row, or `[rows]` of them; None: the begin token of the
            model's configuration.

    Returns:
        `[rows, length]` ids on the CPU.

    Raises:
        UsageError: If the configuration names no begin token and none is given, or if `length`
            exceeds the context.
    """
    at_least(1, rows=rows, batch_size=batch_size)
    at_least(2, length=length)
    if temperature <= 0:
        raise UsageError(f"temperature must be above 0; given: {temperature}.")
    if model.config.is_encoder_decoder:
        raise UsageError("Free samples need a causal model; this one is sequence-to-sequence.")
    first = begin if begin is not None else model.config.bos_token_id
    if first is None:
        raise UsageError(
            "The model's configuration names no begin token; give the first token's id as `begin`."
        )
    context = context_length(model)
    if context is not None and length > context:
        raise UsageError(f"length {length} exceeds the model's context of {context} tokens.")
    firsts = first if isinstance(first, Tensor) else torch.full((rows,), first)
    drawn = torch.Generator().manual_seed(seed)
    chance = torch.rand(rows, length - 1, generator=drawn, dtype=torch.float64)
    settings = {"max_new_tokens": length - 1, "pad_token_id": int(firsts[0]), "eos_token_id": None}
    parts = []
    with _plainly(model, settings), undisturbed(model, device=model.device):
        for part, begun in zip(chance.split(batch_size), firsts.split(batch_size), strict=True):
            ids = begun[:, None].to(model.device)
            parts.append(
                model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    logits_processor=[_Drawn(part, temperature)],
                ).cpu()
            )
    return torch.cat(parts)


def said_by(model: Any, rows: int, length: int, seed: int, temperature: float = 1.0) -> Table:
    """Text sampled from a causal model as examples to train on, in place of data nobody has.

    Rows begin with the begin token; a model that names none begins each with a token drawn
    uniformly from its vocabulary.

    Args:
        model: A causal model of transformers, or a PEFT model.
        rows: How many.
        length: Tokens of each; cut to the model's context.
        seed: Of the draws.
        temperature: Divides the logits; above 0.

    Returns:
        Full rows of `input_ids` and `labels`, on the CPU.

    Source: Liu et al., "LLM-QAT: data-free quantization aware training for large language models"
    (2023), for first tokens from the vocabulary.
    """
    begin = None
    if model.config.bos_token_id is None:
        drawn = torch.Generator().manual_seed(seed)
        begin = torch.randint(model.config.vocab_size, (rows,), generator=drawn)
    length = min(length, context_length(model) or length)
    ids = sample_tokens(model, rows, length, seed=seed, temperature=temperature, begin=begin)
    labels = ids.clone()
    labels[:, 0] = -100  # nothing comes before it in its row
    return Table({"input_ids": ids, "labels": labels})


def context_length(model: Any) -> int | None:
    """How many tokens a model takes at most; None where its positions have no bound."""
    config = model.config
    for name in ("max_position_embeddings", "n_positions"):
        found = getattr(config, name, None)
        if isinstance(found, int) and found > 0:
            # T5 has relative positions: its n_positions is only what it was trained with.
            return None if hasattr(config, "relative_attention_num_buckets") else found
    return None


class _Drawn:
    """Leaves the one token that a row's next uniform number falls on (inverse distribution).

    Args:
        chance: `[rows, tokens]` uniform numbers, one for every token to come.
        temperature: Divides the logits.
    """

    def __init__(self, chance: Tensor, temperature: float) -> None:
        self.chance, self.temperature, self.step = chance, temperature, 0

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        summed = (scores.double() / self.temperature).softmax(-1).cumsum(-1)
        drawn = self.chance[:, self.step, None].to(summed.device) * summed[:, -1:]
        # `right`: a number on a step belongs to the token after it, never to one of probability 0.
        token = torch.searchsorted(summed, drawn, right=True).clamp_(max=scores.shape[-1] - 1)
        self.step += 1
        return torch.full_like(scores, float("-inf")).scatter_(1, token, 0.0)


@contextmanager
def _plainly(model: nn.Module, settings: dict[str, Any]) -> Iterator[None]:
    """Generation settings are `settings` and the library's plainest, whatever the checkpoint's.

    A model's own settings (penalties, beams, sampling) would otherwise fill whatever is not said.
    """
    from transformers import GenerationConfig

    owners: list[Any] = [part for part in model.modules() if "generation_config" in vars(part)]
    kept = [part.generation_config for part in owners]
    own = kept[0] if kept else None
    starts = {
        name: getattr(own, name, None)
        for name in ("bos_token_id", "decoder_start_token_id", "forced_bos_token_id")
    }
    plain = GenerationConfig(do_sample=False, num_beams=1, use_cache=True, **starts, **settings)
    try:
        for part in owners:
            part.generation_config = plain
        yield
    finally:
        for part, config in zip(owners, kept, strict=True):
            part.generation_config = config


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """All ids that end a text: the checkpoint's and the tokenizer's."""
    own = getattr(model.generation_config, "eos_token_id", None)
    ends = own if isinstance(own, (list, tuple)) else [own, model.config.eos_token_id]
    found = [*ends, tokenizer.eos_token_id]
    flat = [i for one in found for i in (one if isinstance(one, (list, tuple)) else [one])]
    return sorted({i for i in flat if i is not None})


def _check(model: Any, rows: Sequence[Sequence[int]], new: int) -> None:
    context = context_length(model)
    own = 0 if model.config.is_encoder_decoder else new
    for i, row in enumerate(rows):
        if not row:
            raise DataError(f"Prompt {i} has no tokens; a model needs at least one to go on from.")
        if context is not None and len(row) + own > context:
            room = f" and {new} new ones are asked for" if own else ""
            raise DataError(
                f"Prompt {i} has {len(row)} tokens{room}; the model's context is {context}."
            )


def _left_padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def _until(text: str, stops: Sequence[str]) -> str:
    places = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    return text[: min(places)] if places else text
