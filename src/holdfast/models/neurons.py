"""Neurons: units of a transformer that span several matrices, and where their entries lie.

A neuron of a feed-forward part is a row of each matrix that leads into it, and the column of the
matrix that leads out: three matrices with a gate, two without. An attention head is its rows of the
query, key and value matrices and its columns of the output matrix. Biases of these rows belong to
the neuron; a bias of the way out belongs to all neurons together, and so to none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from holdfast.errors import UsageError
from holdfast.models.anatomy import blocks, linears
from holdfast.models.units import Part, Unit

Attention = Literal["head", "row"]

ROWS = {"q": "query rows", "k": "key rows", "v": "value rows", "o": "output rows"}


@dataclass(frozen=True, eq=False)
class Member:
    """A parameter of which neurons hold rows or columns.

    Attributes:
        parameter: Its name.
        dim: The dimension along which neurons follow one another.
        place: For each index along it the number of the neuron, or of the group of them that holds
            it together; -1 where none does.
        share: How many neurons hold an entry together: query heads with one key and value head.
        expert: Row of the first dimension, where all experts are stored in one tensor.
    """

    parameter: str
    dim: int
    place: Tensor
    share: int = 1
    expert: int | None = None

    @property
    def entries(self) -> Tensor:
        """Indices along `dim` that belong to neurons."""
        return (self.place >= 0).nonzero().flatten()


@dataclass(frozen=True, eq=False)
class Neurons:
    """The neurons of one kind in one place of a model.

    Attributes:
        name: Of the place: a block, with its expert or attention where there are several.
        kind: `"feedforward"`, `"attention"`, `"cross_attention"`, `"vocabulary"`, or rows of a
            matrix.
        count: How many there are.
        members: Where their entries lie.
    """

    name: str
    kind: str
    count: int
    members: tuple[Member, ...]

    def sizes(self, shapes: Mapping[str, Sequence[int]]) -> Tensor:
        """Entries of each neuron; what is held together counts in equal parts."""
        total = torch.zeros(self.count, dtype=torch.float64)
        for member in self.members:
            shape = torch.Size(shapes[member.parameter])
            cells = shape.numel() // shape[member.dim]
            if member.expert is not None:
                cells //= shape[0]
            index = member.place[member.entries]
            slots = torch.zeros(self.count // member.share, dtype=torch.float64)
            slots.index_add_(0, index, torch.full((len(index),), float(cells), dtype=torch.float64))
            total += spread(slots, member.share)
        return total


def spread(slots: Tensor, share: int) -> Tensor:
    """From sums of what is held together to sums by neuron: each has its equal part."""
    return slots.repeat_interleave(share) / share


def neurons(
    model: nn.Module, *, attention: Attention = "head", vocabulary: bool = True
) -> list[Neurons]:
    """The neurons of a model, place by place; no weights are read.

    With grouped queries a key and value head belongs to all query heads that share it. Where
    the layout of an attention is not known, the rows of its matrices are its neurons, as with
    `attention="row"`.

    Args:
        model: A transformer; its device may be `meta`.
        attention: `"head"`, or `"row"` for every output of q, k, v and o by itself.
        vocabulary: Whether each token is one: its row of the embedding, and of an output layer that
            is not the same.

    Raises:
        UsageError: If the model has no blocks, or if `attention` does not exist.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> with torch.device("meta"):
        ...     model = LlamaForCausalLM(LlamaConfig(hidden_size=8, intermediate_size=12,
        ...         num_hidden_layers=1, num_attention_heads=2, vocab_size=10))
        >>> [(found.kind, found.count, len(found.members)) for found in neurons(model)]
        [('attention', 2, 4), ('feedforward', 12, 3), ('vocabulary', 10, 2)]
    """
    if attention not in get_args(Attention):
        raise UsageError(
            f"attention must be one of {', '.join(get_args(Attention))}; given: {attention!r}."
        )
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    layers = _Layers(
        shapes,
        {f"{watched.name}.weight": watched.dim for watched in linears(model)},
        getattr(getattr(model, "config", None), "num_attention_heads", None),
    )
    found: list[Neurons] = []
    for block, units in blocks(model).items():
        for category in ("attention", "cross_attention"):
            found.extend(layers.attending(block, units, category, attention))
        for expert in dict.fromkeys(u.expert for u in units if u.category == "feedforward"):
            found.extend(layers.feeding(block, units, expert))
    if vocabulary:
        found.extend(_vocabulary(model))
    return found


@dataclass(frozen=True)
class _Layers:
    """What is known of all linear layers: shapes, dimension of the outputs, heads of the model."""

    shapes: Mapping[str, torch.Size]
    outputs: Mapping[str, int]
    heads: int | None

    def places(self, part: Part, dim: int) -> Tensor:
        """The indices along a dimension that a part has, in order."""
        index = torch.arange(self.shapes[part.parameter][dim])
        if not part.width:
            return index
        within = index % (part.period or len(index))
        return index[(within >= part.offset) & (within < part.offset + part.width)]

    def dim(self, part: Part) -> int:
        """The dimension of a weight that counts its outputs."""
        return part.dim if part.expert is not None else self.outputs[part.parameter]

    def member(self, part: Part, dim: int, slots: int, share: int = 1) -> Member | None:
        """A part whose indices are dealt out evenly, in order; None if they cannot be."""
        at = self.places(part, dim)
        if not len(at) or len(at) % slots:
            return None
        place = torch.full((self.shapes[part.parameter][dim],), -1)
        place[at] = torch.arange(len(at)) // (len(at) // slots)
        return Member(part.parameter, dim, place, share, part.expert)

    def out(self, unit: Unit, slots: int, share: int = 1) -> list[Member | None]:
        """The rows of a matrix, with its biases."""
        dim = self.dim(unit.weight)
        weight = self.member(unit.weight, dim, slots, share)
        biases = [
            self.member(bias, bias.dim if bias.expert is not None else 0, slots, share)
            for bias in unit.biases
        ]
        return [weight, *biases]

    def into(self, unit: Unit, slots: int) -> list[Member | None]:
        """The columns of a matrix; all of them, also where its rows are shared with others."""
        dims = (1, 2) if unit.weight.expert is not None else (0, 1)
        dim = dims[0] if self.dim(unit.weight) == dims[1] else dims[1]
        whole = Part(unit.weight.parameter, unit.weight.expert)
        return [self.member(whole, dim, slots)]

    def feeding(self, block: str, units: Sequence[Unit], expert: str) -> Iterator[Neurons]:
        mine = [u for u in units if u.category == "feedforward" and u.expert == expert]
        last = [u for u in mine if u.kind in ("down", "fc2")]
        first = [u for u in mine if u.kind in ("gate", "up", "fc1")]
        if len(last) != 1 or not first:
            return
        count = int(self.shapes[first[0].weight.parameter][self.dim(first[0].weight)])
        if first[0].weight.width:
            count = len(self.places(first[0].weight, self.dim(first[0].weight)))
        members = [m for u in first for m in self.out(u, count)] + self.into(last[0], count)
        if all(m is not None and len(m.entries) == count for m in members):
            name = f"{block}.{expert}" if expert else block
            yield Neurons(name, "feedforward", count, tuple(m for m in members if m is not None))

    def attending(
        self, block: str, units: Sequence[Unit], category: str, attention: str
    ) -> Iterator[Neurons]:
        mine = [u for u in units if u.category == category and u.kind in (*ROWS, "qkv", "kv")]
        name = block if category == "attention" else f"{block}.{category}"
        heads = self.by_head(mine) if attention == "head" else None
        if heads is not None:
            yield Neurons(name, category, self.heads or 0, tuple(heads))
            return
        for unit in mine:
            count = len(self.places(unit.weight, self.dim(unit.weight)))
            members = [member for member in self.out(unit, count) if member is not None]
            yield Neurons(unit.name, ROWS.get(unit.kind, "rows"), count, tuple(members))

    def by_head(self, units: Sequence[Unit]) -> list[Member] | None:
        """The four matrices of an attention, dealt out to its heads; None if they cannot be."""
        by_kind = {unit.kind: unit for unit in units}
        if self.heads is None or len(units) != 4 or set(by_kind) != set(ROWS):
            return None
        width = {k: len(self.places(u.weight, self.dim(u.weight))) for k, u in by_kind.items()}
        size, odd = divmod(width["q"], self.heads)
        groups, rest = divmod(width["k"], size) if size else (0, 1)
        if odd or rest or not groups or self.heads % groups or width["v"] % groups:
            return None
        share = self.heads // groups
        members = self.out(by_kind["q"], self.heads)
        for kind in ("k", "v"):
            members += self.out(by_kind[kind], groups, share)
        members += self.into(by_kind["o"], self.heads)
        known = [member for member in members if member is not None]
        return known if len(known) == len(members) else None


def _vocabulary(model: Any) -> Iterator[Neurons]:
    tables = [model.get_input_embeddings(), model.get_output_embeddings()]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, Member] = {}
    for weight in (table.weight for table in tables if table is not None):
        name, rows = names[id(weight)], torch.arange(len(weight))
        if not found or len(rows) == len(next(iter(found.values())).place):
            found[name] = Member(name, 0, rows)
    if found:
        count = len(next(iter(found.values())).place)
        yield Neurons("vocabulary", "vocabulary", count, tuple(found.values()))
