"""Representations: where, from layer to layer, two models see the same tokens differently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.evaluation import undisturbed
from holdfast.language.questions import Question
from holdfast.language.reading import by_length, padded

PER_QUESTION = 16
"""So many places of a row are looked at, evenly spread."""

States = dict[str, Float[Tensor, "places width"]]


@dataclass(frozen=True)
class Layer:
    """How alike two models' hidden states are after one layer.

    Attributes:
        name: `"embedding"`, then `"layer 1"` and on; of an encoder and a decoder, with that before.
        cka: Linear centred kernel alignment, 1 for the same up to rotation and scale; None where
            one side does not vary.
        cosine: Mean cosine of the two states of a token; None where one is zero.
    """

    name: str
    cka: float | None
    cosine: float | None


def hidden_states(model: Any, questions: Sequence[Question], budget: int) -> States:
    """The hidden states of a model at some places of each question, layer by layer, on the CPU.

    Args:
        model: A causal or sequence-to-sequence model of transformers, or a PEFT model.
        questions: Rows to read; both models must be given the same.
        budget: Tokens of a pass.
    """
    seq2seq = bool(model.config.is_encoder_decoder)
    found: dict[str, list[Tensor]] = {}
    with undisturbed(model, device=model.device):
        for rows in by_length(questions, budget, seq2seq):
            of = [questions[i] for i in rows]
            given = [q.given if seq2seq else q.given + q.asked for q in of]
            ids, mask = padded(given, 0, model.device)
            inputs = {"input_ids": ids, "attention_mask": mask, "output_hidden_states": True}
            if seq2seq:
                labels, _ = padded([q.asked for q in of], -100, model.device)
                out = model(**inputs, labels=labels)
                sides = [
                    ("encoder ", out.encoder_hidden_states, [len(q.given) for q in of]),
                    ("decoder ", out.decoder_hidden_states, [len(q.asked) for q in of]),
                ]
            else:
                out = model(**inputs, use_cache=False)
                sides = [("", out.hidden_states, [len(row) for row in given])]
            for side, states, lengths in sides:
                row, place = _places(lengths)
                for depth, state in enumerate(states):
                    name = f"{side}{f'layer {depth}' if depth else 'embedding'}"
                    found.setdefault(name, []).append(state[row, place].float().cpu())
    return {name: torch.cat(parts) for name, parts in found.items()}


def joined(parts: Sequence[Tensor]) -> Tensor:
    """The states of several sets as one."""
    return torch.cat(list(parts))


def compare(base: States, tuned: States) -> list[Layer]:
    """The likeness of two models' states, layer by layer."""
    return [
        Layer(name, linear_cka(state, tuned[name]), mean_cosine(state, tuned[name]))
        for name, state in base.items()
        if name in tuned
    ]


def linear_cka(a: Float[Tensor, "places width"], b: Float[Tensor, "places other"]) -> float | None:
    """Linear centred kernel alignment of two sets of features of the same things.

    With fewer places than features it is biased upwards; compare like with like.

    Source: Kornblith et al., "Similarity of neural network representations revisited" (2019).

    Example:
        >>> a = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 5.0]])
        >>> linear_cka(a, 3 * a.flip(1) + 7)
        1.0
    """
    x, y = (s.double() - s.double().mean(0) for s in (a, b))
    own = torch.linalg.norm(x.T @ x) * torch.linalg.norm(y.T @ y)
    return min(1.0, float((x.T @ y).square().sum() / own)) if own > 0 else None


def mean_cosine(a: Float[Tensor, "places width"], b: Float[Tensor, "places width"]) -> float | None:
    """Mean cosine of rows; None where a row is zero or widths differ."""
    if a.shape != b.shape:
        return None
    x, y = a.double(), b.double()
    norms = x.norm(dim=1) * y.norm(dim=1)
    return min(1.0, float(((x * y).sum(1) / norms).mean())) if norms.all() else None


def _places(lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Row and place of every state looked at."""
    rows, places = [], []
    for row, length in enumerate(lengths):
        spread = torch.linspace(0, length - 1, min(length, PER_QUESTION)).round().long()
        rows.append(torch.full_like(spread, row))
        places.append(spread)
    return torch.cat(rows), torch.cat(places)
