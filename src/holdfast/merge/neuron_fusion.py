"""Neuron-Fusion: neurons that changed much keep their change, all others keep a part of theirs.

Locate, then merge: first the changes of every neuron are measured, over all the matrices that it
spans; then the merged model is the base, the changes of the neurons located times one factor, and
the changes of the others times another. What fine-tuning taught is expected in the neurons that
moved most, and what the base knew to be spoilt by the small changes of all the rest.

Source: Yu and Ananiadou, "Locate-then-Merge: neuron-level parameter fusion for mitigating
catastrophic forgetting in multimodal LLMs" (2025).

Differs from the paper: Score, share and factors are free; the paper tunes them to its models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from holdfast.errors import UsageError
from holdfast.merge import rules
from holdfast.merge.catalogue import Rule
from holdfast.merge.changes import Begin, Changes, Combine, Inputs, Piece
from holdfast.merge.locating import Choose, Embeddings, Scope, Score, locate
from holdfast.models.neurons import Attention
from holdfast.spec import Spec

Level = Literal["neuron", "entry"]


def neuron_fusion(
    share: float = 0.2,
    keep: float = 1.0,
    rest: float = 0.3,
    score: Score = "l2",
    relative: bool = False,
    scope: Scope = "layer",
    choose: Choose = "large",
    unit: Level = "neuron",
    attention: Attention = "head",
    embeddings: Embeddings = "rows",
    others: float | None = None,
    rescale: bool = False,
    cap: float = 2.0,
    seed: int = 0,
) -> Rule:
    """Keep the change of the neurons that changed most, attenuate that of all others.

        theta = theta_0 + keep * delta  for the share of neurons with the largest score
        theta = theta_0 + rest * delta  for the rest

    Args:
        share: Of the neurons that are located, in [0, 1].
        keep: Factor of their change.
        rest: Factor of the change of all others; 0 drops it.
        score: Of a neuron: the mean magnitude (`"l1"`) or the root mean square (`"l2"`) of the
            change of its entries. All neurons of a kind have equally many, so among them it ranks
            as the norm does.
        relative: Whether the score is divided by the same of the base's weights.
        scope: Among which neurons the largest are taken: those of one kind in one block
            (`"layer"`), of one kind in all blocks (`"type"`), or all (`"model"`).
        choose: `"large"`; as controls `"small"` changes, or neurons at `"random"`.
        unit: `"neuron"`; as a control `"entry"`: the same share of single entries of each matrix.
        attention: `"head"`, or `"row"` for every output of q, k, v and o by itself.
        embeddings: `"rows"`: each token is a neuron; `"whole"`: they are changed as `others`.
        others: Factor of what belongs to no neuron (norms, biases of the way out, routers); None:
            the mean factor of neurons, share * keep + (1 - share) * rest.
        rescale: Whether the located changes of each tensor grow so that the sum of magnitudes of
            its whole change is as before.
        cap: By how much `keep` may grow for that.
        seed: Of random choices.

    Raises:
        UsageError: If a value is out of range.
    """
    rules.check_share("share", share)
    for name, value, accepted in (
        ("score", score, Score), ("scope", scope, Scope), ("choose", choose, Choose),
        ("unit", unit, Level), ("attention", attention, Attention),
        ("embeddings", embeddings, Embeddings),
    ):  # fmt: skip
        if value not in get_args(accepted):
            raise UsageError(
                f"{name} must be one of {', '.join(get_args(accepted))}; given: {value!r}."
            )
    if cap < 1:
        raise UsageError(f"cap must be at least 1; given: {cap}.")
    beside = share * keep + (1 - share) * rest if others is None else others

    def start(inputs: Inputs) -> Begin:
        located = locate(
            inputs, share=share, score=score, relative=relative, scope=scope, choose=choose,
            attention=attention, embeddings=embeddings, seed=seed, ranked=unit == "neuron",
        )  # fmt: skip

        def begin(changes: Changes) -> Combine:
            covered = located.covered(changes.name, changes.shape)
            if covered is None:
                return lambda piece: piece.deltas[0] * beside
            if unit == "neuron":
                mask = located.chosen_of(changes.name, changes.shape)
                picks: Picks = lambda: lambda piece: cut(mask, piece)  # noqa: E731
            else:
                picks = single_entries(changes, share, choose, seed)
            grown = keep
            if rescale:
                grown = keep_that_preserves(changes, covered, picks(), keep, rest, cap)
            pick = picks()

            def combine(piece: Piece) -> Tensor:
                factor = torch.where(pick(piece), grown, rest)
                if not bool(cut(covered, piece).all()):
                    factor = torch.where(cut(covered, piece), factor, beside)
                return piece.deltas[0] * factor

            return combine

        return begin

    return Rule(Spec(""), start, True, most=1, whole=unit == "entry")


Pick = Callable[[Piece], Tensor]
"""From a piece to which of its entries are located; broadcasts against it."""
Picks = Callable[[], Pick]


def single_entries(changes: Changes, share: float, choose: Choose, seed: int) -> Picks:
    """The same share of entries of one tensor, whatever neurons they are of."""
    if choose == "random":

        def draws() -> Pick:
            generator = changes.generator(seed)
            return lambda piece: rules.kept_by_chance(piece.deltas[0], 1 - share, generator)

        return draws
    density = share if choose == "large" else 1 - share
    found = rules.Largest.select(changes.magnitudes(0), density)

    def picks() -> Pick:
        top = rules.Largest(found.threshold, found.edge)
        if choose == "large":
            return lambda piece: top.mask(piece.deltas[0])
        return lambda piece: ~top.mask(piece.deltas[0])

    return picks


def keep_that_preserves(
    changes: Changes, covered: Tensor, pick: Pick, keep: float, rest: float, cap: float
) -> float:
    """The factor of located changes that preserves the tensor's sum of magnitudes.

    Never less than `keep`, and never more than `cap` times as much.
    """
    whole = located = 0.0
    for piece in changes.pieces():
        sizes = piece.deltas[0].abs() * cut(covered, piece)
        whole += float(sizes.sum(dtype=torch.float64))
        located += float((sizes * pick(piece)).sum(dtype=torch.float64))
    if not located:
        return keep
    return min(cap * keep, max(keep, (whole - rest * (whole - located)) / located))


def cut(mask: Tensor, piece: Piece) -> Tensor:
    """The rows of a mask that belong to a piece, if it has rows."""
    return mask[piece.start : piece.stop] if mask.dim() and mask.shape[0] > 1 else mask
