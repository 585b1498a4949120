"""Locating neurons: which of them changed most from the base to a tuned model.

One pass over the changes of all tensors that neurons hold adds up what every neuron's entries
changed; what is kept in memory is one number a neuron.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from holdfast.errors import UsageError
from holdfast.merge.changes import Inputs, Piece, seeded
from holdfast.models.neurons import Attention, Member, Neurons, neurons, spread

Score = Literal["l1", "l2"]
Scope = Literal["layer", "type", "model"]
Choose = Literal["large", "small", "random"]
Embeddings = Literal["rows", "whole"]


@dataclass(frozen=True)
class Located:
    """What was located.

    Attributes:
        places: Neurons, place by place.
        scores: One a neuron, by place; how much each changed.
        chosen: Whether each was located.
        shapes: Of the tensors that are merged.
    """

    places: Sequence[Neurons]
    scores: Sequence[Tensor]
    chosen: Sequence[Tensor]
    shapes: Mapping[str, tuple[int, ...]]

    def members(self, name: str) -> Iterator[tuple[int, Member]]:
        """The members of places that lie in a tensor."""
        for at, place in enumerate(self.places):
            for member in place.members:
                if member.parameter == name:
                    yield at, member

    def covered(self, name: str, shape: tuple[int, ...]) -> Tensor | None:
        """Which entries belong to neurons, as a mask that broadcasts; None: none do."""
        return self._laid(name, shape, lambda at, member: torch.ones_like(member.place).bool())

    def chosen_of(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Which entries belong to located neurons; what several share goes with any of them."""

        def values(at: int, member: Member) -> Tensor:
            slots = self.chosen[at].view(-1, member.share).any(1)
            return slots[member.place.clamp(min=0)]

        found = self._laid(name, shape, values)
        assert found is not None
        return found

    def _laid(
        self, name: str, shape: tuple[int, ...], values: Callable[[int, Member], Tensor]
    ) -> Tensor | None:
        mask: Tensor | None = None
        for at, member in self.members(name):
            if mask is None:
                kept = (member.dim,) if member.expert is None else (0, member.dim)
                sizes = [size if dim in kept else 1 for dim, size in enumerate(shape)]
                mask = torch.zeros(sizes, dtype=torch.bool)
            index = member.entries[member.entries < shape[member.dim]]
            part = mask if member.expert is None else mask[member.expert]
            dim = member.dim if member.expert is None else member.dim - 1
            laid = values(at, member)[index].view(
                [-1 if d == dim else 1 for d in range(part.dim())]
            )
            part.index_copy_(dim, index, laid)
        return mask

    def by_place(self) -> list[dict[str, float | str]]:
        """Mean, middle and largest score of every place, and the share of the whole change there.

        The share is of the sum of scores over all neurons of the place's kind.
        """
        sums: dict[str, float] = {}
        for place, score in zip(self.places, self.scores, strict=True):
            sums[place.kind] = sums.get(place.kind, 0.0) + float(score.sum())
        return [
            {
                "place": place.name,
                "kind": place.kind,
                "neurons": place.count,
                "mean": float(score.mean()),
                "median": float(score.median()),
                "largest": float(score.max()),
                "share": float(score.sum()) / (sums[place.kind] or 1.0),
            }
            for place, score in zip(self.places, self.scores, strict=True)
        ]


def locate(
    inputs: Inputs,
    *,
    share: float = 0.2,
    score: Score = "l2",
    relative: bool = False,
    scope: Scope = "layer",
    choose: Choose = "large",
    attention: Attention = "head",
    embeddings: Embeddings = "rows",
    seed: int = 0,
    ranked: bool = True,
) -> Located:
    """The neurons that changed most; arguments as of `neuron_fusion`.

    Args:
        inputs: One model and its base, in memory or in files.
        ranked: Whether scores are computed; otherwise none is located, and places alone are known.

    Raises:
        UsageError: If the tensors are not those of the model's class.
    """
    found = neurons(inputs.skeleton(), attention=attention, vocabulary=embeddings == "rows")
    places = _named(found, inputs.shapes)
    if not ranked:
        nothing = [torch.zeros(place.count) for place in places]
        return Located(places, nothing, [part.bool() for part in nothing], inputs.shapes)
    scores = measured(places, inputs, score, relative)
    chosen = largest(places, scores, share, scope, choose, seed)
    return Located(places, scores, chosen, inputs.shapes)


def measured(
    places: Sequence[Neurons], inputs: Inputs, score: Score, relative: bool
) -> list[Tensor]:
    """The score of every neuron, by one pass over all tensors that neurons hold."""
    held: dict[str, list[tuple[int, Member]]] = {}
    for at, place in enumerate(places):
        for member in place.members:
            held.setdefault(member.parameter, []).append((at, member))
    changed = [torch.zeros(place.count, dtype=torch.float64) for place in places]
    before = [torch.zeros(place.count, dtype=torch.float64) for place in places]
    for name, members in held.items():
        for piece in inputs.changes(name).pieces():
            _add(changed, members, _powers(piece.deltas[0], score), piece)
            if relative and piece.base is not None:
                _add(before, members, _powers(piece.base, score), piece)
    means = []
    for at, place in enumerate(places):
        value = before[at] if relative else place.sizes(inputs.shapes)
        mean = changed[at] / value.clamp(min=torch.finfo(torch.float64).tiny)
        means.append((mean.sqrt() if score == "l2" else mean).float())
    return means


def _powers(values: Tensor, score: Score) -> Tensor:
    return values.abs() if score == "l1" else values.square()


def _add(
    sums: Sequence[Tensor], members: Sequence[tuple[int, Member]], powers: Tensor, piece: Piece
) -> None:
    """Add what a piece's entries have to the sums of their neurons."""
    lines: dict[int, Tensor] = {}
    for at, member in members:
        values, dim = powers, member.dim
        if member.expert is not None:
            if not piece.start <= member.expert < piece.stop:
                continue
            values, dim = powers[member.expert - piece.start], dim - 1
            line = _along(values, dim)
        else:
            line = lines.setdefault(dim, _along(values, dim)) if dim not in lines else lines[dim]
        rows = member.dim == 0
        place = member.place[piece.start : piece.stop] if rows else member.place[: len(line)]
        inside = place >= 0
        slots = torch.zeros(len(sums[at]) // member.share, dtype=torch.float64)
        slots.index_add_(0, place[inside], line[inside])
        sums[at].add_(spread(slots, member.share))


def _along(values: Tensor, dim: int) -> Tensor:
    """Sums over all dimensions but one, in double precision."""
    others = [d for d in range(values.dim()) if d != dim]
    return (values.sum(others) if others else values).double()


def largest(
    places: Sequence[Neurons],
    scores: Sequence[Tensor],
    share: float,
    scope: Scope,
    choose: Choose,
    seed: int,
) -> list[Tensor]:
    """Which neurons are located: of each scope a share, rounded, at least one where it is above 0.

    Args:
        places: Neurons by place.
        scores: Theirs.
        share: Of the neurons of each scope.
        scope: As of `neuron_fusion`.
        choose: As of `neuron_fusion`.
        seed: Of random choices.
    """
    groups: dict[str, list[int]] = {}
    for at, place in enumerate(places):
        group = {"layer": f"{place.name} {place.kind}", "type": place.kind, "model": ""}[scope]
        groups.setdefault(group, []).append(at)
    chosen = [torch.zeros(place.count, dtype=torch.bool) for place in places]
    for group, members in groups.items():
        together = torch.cat([scores[at] for at in members])
        if choose == "random":
            together = torch.rand(len(together), generator=seeded(f"{seed} {group}"))
        count = max(1, round(share * len(together))) if share else 0
        order = together.argsort(descending=choose != "small", stable=True)[:count]
        flags = torch.zeros(len(together), dtype=torch.bool)
        flags[order] = True
        for at, part in zip(
            members, flags.split([places[at].count for at in members]), strict=True
        ):
            chosen[at] = part
    return chosen


def _named(places: Sequence[Neurons], shapes: Mapping[str, tuple[int, ...]]) -> list[Neurons]:
    """Neurons by the names of the tensors at hand, which may leave the first part of them out."""
    found = []
    for place in places:
        members = []
        for member in place.members:
            name = member.parameter
            if name not in shapes:
                name = name.partition(".")[2]
            if name not in shapes:
                raise UsageError(
                    f"Neurons cannot be found: the checkpoint has no tensor {member.parameter!r}, "
                    f"which the model's class has; it begins with {next(iter(shapes), None)!r}."
                )
            members.append(Member(name, member.dim, member.place, member.share, member.expert))
        found.append(Neurons(place.name, place.kind, place.count, tuple(members)))
    return found
