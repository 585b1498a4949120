"""Encoding: samples and a tokenizer to a table of tokens and labels.

Rows are padded on the right. A label is the token itself where it is to be predicted and -100
elsewhere: in a text everywhere, after a prompt in the answer and its end token, in a chat in the
assistant's turns. The first token of a row is never scored, for nothing comes before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from holdfast.data import Table
from holdfast.errors import DataError, UsageError, at_least, unknown
from holdfast.language.chat import Segment, segments, template_of
from holdfast.language.encoded import Encoded, describe
from holdfast.language.fields import Sample
from holdfast.language.fitting import fit, fit_pairs, padded
from holdfast.language.packing import pack_samples, pack_texts
from holdfast.language.tokens import Ends, ends, own_ends, tokenise

__all__ = ["Encoded", "describe", "encode", "prompts"]

OVERLONG = ("error", "cut", "skip")


def encode(
    samples: Sequence[Sample],
    tokenizer: Any,
    *,
    length: int,
    pack: bool = False,
    completion_only: bool = True,
    template: str | None = None,
    overlong: str = "error",
    seq2seq: bool = False,
    bos: bool | None = None,
    eos: bool | None = None,
    separator: str = " ",
) -> Encoded:
    """Samples as a table that a language model learns from.

    A text begins with BOS where the model knows it (see `tokens.ends`), and ends with EOS where it
    does not: one token between two texts is enough, and some models that know BOS have never seen
    EOS, so that asking for it would drown all other tokens. An answer follows its prompt after
    `separator`, unless white space is there already, and is ended by EOS. A chat is written by the
    tokenizer's template, which brings its own such tokens.

    Args:
        samples: All of one kind.
        tokenizer: Of the model.
        length: Most tokens a row; no more than the model's context. For encoder-decoder models
            this holds for prompt and answer each.
        pack: Fill rows: texts are joined and cut into rows of exactly `length`; other samples stay
            whole, side by side, apart by their `position_ids` (see `packing.refuse_mixing`).
        completion_only: Whether only answers are scored; False: prompts and users' turns too.
        template: Chat template (Jinja, or `"simple"`) in place of the tokenizer's.
        overlong: What to do with samples of more than `length` tokens: `"error"`; `"cut"`, by
            which a prompt loses its beginning, and all else its end; or `"skip"`.
        seq2seq: For an encoder-decoder model: prompts into the encoder, answers as labels.
        bos: Whether a text begins with BOS; None: see `tokens.ends`.
        eos: Whether a text or an answer ends with EOS; None: as said above.
        separator: Between a prompt and its answer.

    Raises:
        DataError: If there are no samples, of several kinds, too long (`overlong="error"`), or if
            nothing would be left to learn from.
        UsageError: If an option is not known, or does not fit the samples.
    """
    at_least(2, length=length)
    if overlong not in OVERLONG:
        raise unknown("way with overlong samples", overlong, OVERLONG)
    kind = _kind(samples)
    if seq2seq:
        if pack:
            raise UsageError("Packing is for causal models; an encoder-decoder model has no use.")
        return _pairs(samples, kind, tokenizer, length, overlong)
    around = ends(tokenizer, bos, eos is not False)
    if eos is None and kind == "text" and around.start:
        around = replace(around, end=())
    written = _written(samples, kind, tokenizer, template, around, separator)
    if kind == "chat":
        around = Ends((), ())
    ragged = tokenise(written, tokenizer, around)
    if kind == "chat":  # what is too long loses its end, not its first question
        ragged = replace(ragged, prompt=np.zeros_like(ragged.prompt))
    if not completion_only:
        spoken = ragged.position >= np.maximum(ragged.start, 1)[ragged.row]
        ragged = replace(ragged, scored=spoken)
    longest = int(ragged.lengths.max())
    if pack and kind == "text":
        columns, dropped = pack_texts(ragged, length)
        rows = len(columns["input_ids"])
        if not rows:
            raise DataError(
                f"The texts have {len(ragged.ids)} tokens together, which do not fill one row of "
                f"{length}; give a smaller length or do not pack."
            )
        table = Table(columns)
        return Encoded(
            table, len(samples), rows * length, rows * (length - 1), longest, dropped=dropped
        )
    fitted = fit(ragged, samples, length, overlong)
    ragged = fitted.ragged
    pad = tokenizer.pad_token_id or 0
    if pack:
        table, kept = Table(pack_samples(ragged, length, pad)), None
    else:
        table, kept = Table(padded(ragged, pad)), torch.from_numpy(fitted.kept)
    return Encoded(
        table,
        samples=len(samples),
        tokens=len(ragged.ids),
        scored=int(ragged.scored.sum()),
        longest=longest,
        cut=fitted.cut,
        skipped=fitted.skipped,
        unscored=fitted.unscored,
        kept=kept,
        overlong=fitted.overlong,
    )


def prompts(
    samples: Sequence[Sample],
    tokenizer: Any,
    *,
    template: str | None = None,
    seq2seq: bool = False,
    bos: bool | None = None,
) -> list[list[int]]:
    """The tokens of each sample up to where its (last) answer begins, the same as in training.

    Args:
        samples: Prompts or chats, all of one kind.
        tokenizer: Of the model.
        template: As in `encode`.
        seq2seq: As in `encode`.
        bos: As in `encode`.

    Raises:
        UsageError: If the samples are texts, which have no prompt.
    """
    kind = _kind(samples)
    around = own_ends(tokenizer) if seq2seq else ends(tokenizer, bos, eos=False)
    if kind == "text":
        raise UsageError(
            "Texts have no prompt to go on from; accepted: prompts with answers, chats."
        )
    written: list[list[Segment]]
    if kind == "chat":
        jinja = template_of(tokenizer, template, bool(around.start))
        written = []
        for sample in samples:
            parts = segments(sample.messages or (), tokenizer, jinja, sample.where)
            last = max(at for at, (_, scored) in enumerate(parts) if scored)
            written.append(parts[:last])
        around = Ends((), ())
    else:
        written = [[(sample.prompt or "", False)] for sample in samples]
    ragged = tokenise(written, tokenizer, around)
    cuts = np.cumsum(ragged.lengths)[:-1]
    return [part.tolist() for part in np.split(ragged.ids, cuts)]


def _kind(samples: Sequence[Sample]) -> str:
    kinds = {sample.kind for sample in samples}
    if len(kinds) != 1:
        given = " and ".join(sorted(kinds)) or "none"
        raise DataError(f"Samples to encode must be of one kind; given: {given}.")
    return kinds.pop()


def _written(
    samples: Sequence[Sample],
    kind: str,
    tokenizer: Any,
    template: str | None,
    around: Ends,
    separator: str,
) -> list[list[Segment]]:
    if kind == "chat":
        jinja = template_of(tokenizer, template, bool(around.start))
        return [segments(s.messages or (), tokenizer, jinja, s.where) for s in samples]
    if template is not None:
        raise UsageError(f"A chat template was given, but the samples are of the kind {kind!r}.")
    if kind == "text":
        return [[(sample.text or "", True)] for sample in samples]
    return [
        [(prompt, False), (_joint(prompt, answer, separator) + answer, True)]
        for prompt, answer in ((sample.prompt or "", sample.answer or "") for sample in samples)
    ]


def _joint(prompt: str, answer: str, separator: str) -> str:
    return "" if prompt[-1:].isspace() or answer[:1].isspace() else separator


def _pairs(
    samples: Sequence[Sample], kind: str, tokenizer: Any, length: int, overlong: str
) -> Encoded:
    """Prompts and answers apart, each with the tokens that the tokenizer puts around them."""
    if kind != "prompt":
        raise UsageError(
            f"An encoder-decoder model learns from prompts with answers; given: a {kind}."
        )
    around = own_ends(tokenizer)
    asked = tokenise([[(sample.prompt or "", False)] for sample in samples], tokenizer, around)
    answers = tokenise([[(sample.answer or "", True)] for sample in samples], tokenizer, around)
    # The decoder begins with a token of its own, so that even the first of an answer is predicted.
    answers = replace(answers, scored=np.ones_like(answers.scored))
    fitted, inputs, targets = fit_pairs(asked, answers, samples, length, overlong)
    columns = padded(inputs, tokenizer.pad_token_id or 0)
    labels = padded(targets, 0)
    columns |= {"labels": labels["labels"], "label_length": labels["length"]}
    return Encoded(
        Table(columns),
        samples=len(samples),
        tokens=len(inputs.ids),
        scored=len(targets.ids),
        longest=int(max(asked.lengths.max(), answers.lengths.max())),
        cut=fitted.cut,
        skipped=fitted.skipped,
        kept=torch.from_numpy(fitted.kept),
        overlong=fitted.overlong,
    )
