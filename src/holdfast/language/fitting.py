"""Fitting: sequences of tokens into rows of a length, padded on the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from holdfast.errors import DataError
from holdfast.language.fields import Sample
from holdfast.language.packing import IGNORED
from holdfast.language.tokens import Ragged


@dataclass(frozen=True)
class Fitted:
    ragged: Ragged
    kept: Int[np.ndarray, " rows"]
    cut: int
    skipped: int
    unscored: int
    overlong: tuple[str, ...]


def fit(ragged: Ragged, samples: Sequence[Sample], length: int, overlong: str) -> Fitted:
    """Sequences of at most `length` tokens, each with something to predict."""
    excess = np.maximum(ragged.lengths - length, 0)
    places = _overlong(excess, ragged.lengths, samples, length, overlong)
    row, position = ragged.row, ragged.position
    if overlong == "skip":
        fits = excess[row] == 0
    else:
        # A prompt is what comes before the first scored token; a text has none.
        lead = ragged.start[row]
        lost = np.minimum(excess, ragged.prompt)[row]
        rest = position - np.where(position >= lead + lost, lost, 0)
        fits = ((position < lead) | (position >= lead + lost)) & (rest < length)
    answered = np.bincount(row[fits & ragged.scored], minlength=len(samples)) > 0
    full = np.bincount(row[fits], minlength=len(samples)) > 0
    kept = np.flatnonzero(answered)
    if not len(kept):
        raise DataError(f"No sample is left to learn from within {length} tokens.")
    return Fitted(
        ragged.keep(fits & answered[row]),
        kept,
        cut=int((excess[kept] > 0).sum()),
        skipped=int((~full).sum()) if overlong == "skip" else 0,
        unscored=int((full & ~answered).sum()),
        overlong=places,
    )


def fit_pairs(
    asked: Ragged, answers: Ragged, samples: Sequence[Sample], length: int, overlong: str
) -> tuple[Fitted, Ragged, Ragged]:
    """Prompts and answers of at most `length` tokens each, cut as in `fit`."""
    longest = np.maximum(asked.lengths, answers.lengths)
    excess = np.maximum(longest - length, 0)
    places = _overlong(excess, longest, samples, length, overlong)
    whole = excess == 0 if overlong == "skip" else np.ones(len(samples), bool)
    kept = np.flatnonzero(whole)
    if not len(kept):
        raise DataError(f"No sample is left to learn from within {length} tokens.")
    lead = asked.start[asked.row]
    lost = np.maximum(asked.lengths - length, 0)[asked.row]
    rest = (asked.position < lead) | (asked.position >= lead + lost)
    inputs = asked.keep(rest & whole[asked.row])
    targets = answers.keep((answers.position < length) & whole[answers.row])
    fitted = Fitted(inputs, kept, int((excess[kept] > 0).sum()), int((~whole).sum()), 0, places)
    return fitted, inputs, targets


def _overlong(
    excess: Int[np.ndarray, " rows"],
    lengths: Int[np.ndarray, " rows"],
    samples: Sequence[Sample],
    length: int,
    overlong: str,
) -> tuple[str, ...]:
    """The places of the first samples that are too long; raises where that is an error."""
    long = np.flatnonzero(excess)
    if len(long) and overlong == "error":
        worst = int(excess.argmax())
        raise DataError(
            f"{len(long)} of {len(samples)} samples have more than {length} tokens (the longest, "
            f"{samples[worst].where or f'sample {worst}'}, has {int(lengths[worst])}); "
            "accepted: overlong='cut' or 'skip', or a greater length if the model's context has "
            "it."
        )
    return tuple(samples[at].where for at in long[:5].tolist())


def padded(ragged: Ragged, pad: int) -> dict[str, Tensor]:
    mask = grid(ragged, np.ones_like(ragged.ids), 0)
    labels = np.where(ragged.scored, ragged.ids, IGNORED)
    return {
        "input_ids": grid(ragged, ragged.ids, pad),
        "labels": grid(ragged, labels, IGNORED),
        "attention_mask": mask,
        "length": torch.from_numpy(ragged.lengths),
    }


def grid(ragged: Ragged, values: Int[np.ndarray, " tokens"], fill: int) -> Tensor:
    """Sequences as rows, filled up on the right."""
    grid = np.full((len(ragged.lengths), int(ragged.lengths.max())), fill, np.int64)
    grid[ragged.row, ragged.position] = values
    return torch.from_numpy(grid)
