"""Tokens: segments of text to token ids, many at once, so that the parts stay apart.

A prompt must have the same tokens in training as when the model is asked. So the parts of a sample
are tokenised one by one, never as one text in which the last token of a prompt could merge with
the first of its answer; and every part but the first as the continuation that it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from holdfast.errors import DataError
from holdfast.language.chat import Segment

_CHUNK = 8192
ANCHORS = ("\n", ":", "a")
"""Texts after which a continuation is tokenised, whose tokens are then taken away."""


@dataclass(frozen=True)
class Ends:
    """The tokens before and after a text.

    Attributes:
        start: Before every text; empty where the model knows none.
        end: After a text, and after an answer; empty where the tokenizer has none.
    """

    start: tuple[int, ...]
    end: tuple[int, ...]


@dataclass(frozen=True)
class Ragged:
    """Sequences of tokens of unequal length, end to end.

    Attributes:
        ids: All tokens.
        scored: Whether a token is to be predicted.
        lengths: Tokens of each sequence.
        start: Tokens at the head of each that are no text (BOS).
        prompt: Tokens after those that come before the first scored one.
    """

    ids: Int[np.ndarray, " tokens"]
    scored: Bool[np.ndarray, " tokens"]
    lengths: Int[np.ndarray, " rows"]
    start: Int[np.ndarray, " rows"]
    prompt: Int[np.ndarray, " rows"]

    @property
    def row(self) -> Int[np.ndarray, " tokens"]:
        """The sequence that each token is of."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @property
    def position(self) -> Int[np.ndarray, " tokens"]:
        """The position of each token in its sequence."""
        starts = np.cumsum(self.lengths) - self.lengths
        position: np.ndarray = np.arange(len(self.ids)) - np.repeat(starts, self.lengths)
        return position

    def keep(self, tokens: Bool[np.ndarray, " tokens"]) -> Ragged:
        """The same without the tokens where `tokens` is False, and without what is then empty."""
        lengths = np.bincount(self.row[tokens], minlength=len(self.lengths))
        rest = lengths > 0
        return Ragged(
            self.ids[tokens],
            self.scored[tokens],
            lengths[rest],
            self.start[rest],
            self.prompt[rest],
        )


def ends(tokenizer: Any, bos: bool | None = None, eos: bool = True) -> Ends:
    """The tokens that belong before and after a text.

    With `bos=None` it is decided so: what the tokenizer puts before a text by itself; nothing if it
    puts none and its configuration says `add_bos_token` (so it was meant); else, for tokenizers of
    the Llama kind, whose models are trained with BOS before every text, its BOS token; else
    nothing. Tokenizers of the GPT kind have BOS and EOS in one and put neither before a text.

    Args:
        tokenizer: Of the model.
        bos: True and False decide.
        eos: Whether texts end with the tokenizer's EOS token.

    Raises:
        DataError: If `bos` is True and the tokenizer has no BOS token.
    """
    start = own_ends(tokenizer).start
    if bos is None and not start:
        said = getattr(tokenizer, "init_kwargs", {}).get("add_bos_token")
        llama = type(tokenizer).__name__.startswith("Llama")
        bos = bool(said) or (said is None and llama and tokenizer.bos_token_id is not None)
    if bos is False:
        start = ()
    elif bos and not start:
        if tokenizer.bos_token_id is None:
            raise DataError("bos=True was given, but the tokenizer has no BOS token.")
        start = (tokenizer.bos_token_id,)
    end = (tokenizer.eos_token_id,) if eos and tokenizer.eos_token_id is not None else ()
    return Ends(start, end)


def own_ends(tokenizer: Any) -> Ends:
    """The tokens that the tokenizer puts around a text by itself."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    for at in range(len(whole) - len(bare) + 1):
        if whole[at : at + len(bare)] == bare:
            return Ends(tuple(whole[:at]), tuple(whole[at + len(bare) :]))
    return Ends((), ())


def tokenise(samples: Sequence[Sequence[Segment]], tokenizer: Any, around: Ends) -> Ragged:
    """The tokens of samples given as segments.

    The first token of a sample is never scored: nothing comes before it to predict it from.

    Args:
        samples: Segments of each sample, in order.
        tokenizer: Of the model.
        around: Put before the first segment and after the last, unless these tokens are there
            already; the end is scored as the last segment is.

    Raises:
        DataError: If the tokenizer cannot tokenise a part apart from what comes before it.
    """
    first = _ids([parts[0][0] for parts in samples], tokenizer)
    later = iter(_continuations([text for parts in samples for text, _ in parts[1:]], tokenizer))
    pieces: list[Sequence[int]] = []
    marks: list[bool] = []
    counts, starts, prompts = [], [], []
    start, end = list(around.start), list(around.end)
    for parts, opening in zip(samples, first, strict=True):
        own = [opening, *(next(later) for _ in parts[1:])]
        given = [scored for _, scored in parts]
        begin = [] if start and opening[: len(start)] == start else start
        close = [] if end and own[-1][-len(end) :] == end else end
        pieces += [begin, *own, close]
        marks += [False, *given, given[-1]]
        counts.append(len(begin) + sum(map(len, own)) + len(close))
        starts.append(len(begin))
        quiet = given.index(True) if True in given else len(given)
        prompts.append(sum(map(len, own[:quiet])))
    sizes = np.fromiter(map(len, pieces), np.int64, len(pieces))
    ids = np.fromiter(chain.from_iterable(pieces), np.int64, int(sizes.sum()))
    scored = np.repeat(np.array(marks, bool), sizes)
    lengths = np.array(counts, np.int64)
    opens = np.cumsum(lengths) - lengths
    scored[opens[lengths > 0]] = False
    return Ragged(ids, scored, lengths, np.array(starts, np.int64), np.array(prompts, np.int64))


def _ids(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    found: list[list[int]] = []
    for at in range(0, len(texts), _CHUNK):
        found += tokenizer(
            list(texts[at : at + _CHUNK]),
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
    return found


def _continuations(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """The tokens of texts that follow others.

    Alone, the first word of a text may get tokens of its own (a space put before it), so each is
    tokenised after an anchor, whose tokens are then taken away.
    """
    found: list[list[int]] = [[] for _ in texts]
    open_: list[int] = list(range(len(texts)))
    for anchor in ANCHORS:
        lead = _ids([anchor], tokenizer)[0]
        merged = []
        for row, ids in zip(
            open_, _ids([anchor + texts[row] for row in open_], tokenizer), strict=True
        ):
            if ids[: len(lead)] == lead:
                found[row] = ids[len(lead) :]
            else:  # the anchor merged with the text
                merged.append(row)
        open_ = merged
        if not open_:
            return found
    raise DataError(
        f"The tokenizer does not let {texts[open_[0]][:40]!r} stand apart from what comes before "
        "it, so that a prompt would have other tokens in training than when the model is asked."
    )
