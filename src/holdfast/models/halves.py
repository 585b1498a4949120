"""Drawing a half: which units of a transformer are chosen, balanced as half fine-tuning asks.

Chance comes from a seed given, not from a generator in use, so that every process draws alike.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from holdfast.errors import UsageError
from holdfast.models.units import Part, Unit

Level = Literal["category", "layer", "model"]

TOLERANCE = 0.02
"""How far the share of chosen entries may lie from what was asked, where a draw can do it."""

TRIES = 200


@dataclass(frozen=True)
class Half:
    """A draw.

    Attributes:
        chosen: The units drawn.
        left: The others.
        ratio: Share of the entries that were drawn.
    """

    chosen: tuple[Unit, ...]
    left: tuple[Unit, ...]
    ratio: float


def draw(
    anatomy: Mapping[str, Sequence[Unit]],
    sizes: Mapping[str, torch.Size],
    *,
    ratio: float = 0.5,
    level: Level = "category",
    seed: str,
) -> Half:
    """Choose units at random so that a given share of a model's blocks is chosen.

    With `"category"`, the same number of every category (attention, feed-forward, norms) is chosen
    in every block and every expert, independently; where that number is not whole (half of three
    matrices), some blocks drawn at random choose one more, so that it comes out right over all.
    `"layer"` chooses whole blocks, `"model"` units wherever they are. Matrices have different
    sizes: draws are repeated until the share of entries lies within 2 % of the ratio, and if none
    of 200 does (few or unequal matrices), the nearest is taken.

    Args:
        anatomy: Units by block, as `holdfast.models.anatomy.blocks` answers.
        sizes: Shapes of the parameters by name.
        ratio: Share to choose, in [0, 1].
        seed: Any words; equal words draw alike, everywhere.

    Raises:
        UsageError: If the ratio or the level does not exist.
    """
    check_ratio(ratio)
    if level not in get_args(Level):
        raise UsageError(f"level must be one of {', '.join(get_args(Level))}; given: {level!r}.")
    units = [unit for block in anatomy.values() for unit in block]
    weights = [sum(part.count(sizes[part.parameter]) for part in unit.parts) for unit in units]
    total = sum(weights)
    if not total:
        return Half((), tuple(units), 0.0)
    random = Random(seed)
    if level == "model":
        chosen = _by_entries(weights, ratio, random)
        return _half(units, chosen, weights)
    families = _families(units)
    best: set[int] = set()
    nearest = math.inf
    for _ in range(TRIES):
        if level == "layer":
            chosen = _by_blocks(units, ratio, random)
        else:
            chosen = {unit for groups in families for unit in _balanced(groups, ratio, random)}
        off = abs(sum(weights[i] for i in chosen) / total - ratio)
        if off < nearest:
            best, nearest = chosen, off
        if off <= TOLERANCE:
            break
    return _half(units, best, weights)


def draw_names(names: Sequence[str], ratio: float, seed: str) -> set[str]:
    """Choose whole parameters (embeddings, output head) by name, as many as the ratio says."""
    if not names:
        return set()
    return {names[i] for i in _balanced([[*range(len(names))]], ratio, Random(seed))}


def check_ratio(ratio: float) -> None:
    """Raise `UsageError` unless a ratio lies in [0, 1]."""
    if not 0 <= ratio <= 1:
        raise UsageError(f"ratio must lie between 0 and 1; given: {ratio}.")


def open_masks(
    named: Mapping[str, Tensor], parts: Sequence[Part]
) -> dict[str, Tensor | Literal[True]]:
    """By parameter, which of its entries lie in `parts`: True for all; parameters of none lack."""
    found: dict[str, Tensor | Literal[True]] = {}
    filled: dict[str, int] = defaultdict(int)
    for part in parts:
        tensor = named[part.parameter]
        filled[part.parameter] += part.count(tensor.shape)
        if part.whole or filled[part.parameter] == tensor.numel():
            found[part.parameter] = True
            continue
        mask = part.mask(tensor.shape, tensor.device)
        before = found.get(part.parameter)
        found[part.parameter] = mask if before is None else mask | before
    return found


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    """The shapes of a model's parameters by name."""
    return {name: parameter.shape for name, parameter in model.named_parameters()}


def _half(units: Sequence[Unit], chosen: set[int], weights: Sequence[int]) -> Half:
    return Half(
        tuple(unit for i, unit in enumerate(units) if i in chosen),
        tuple(unit for i, unit in enumerate(units) if i not in chosen),
        sum(weights[i] for i in chosen) / sum(weights),
    )


def _families(units: Sequence[Unit]) -> list[list[list[int]]]:
    """Groups of units (by their places) that are balanced against one another.

    Within a group a share is drawn; over the groups of a family, shares that are not whole are
    rounded up and down. Encoder and decoder are families apart.
    """
    groups: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for at, unit in enumerate(units):
        groups[unit.block, unit.category, unit.expert].append(at)
    families: dict[tuple[str, str, int], list[list[int]]] = defaultdict(list)
    for (block, category, _), members in groups.items():
        families[_stack(block), category, len(members)].append(members)
    return list(families.values())


def _balanced(groups: Sequence[list[int]], ratio: float, random: Random) -> list[int]:
    """Draw from every group its share, so many of them one more that the sum comes out right."""
    share = len(groups[0]) * ratio
    least = math.floor(share + 1e-9)
    more = _rounded(len(groups) * (share - least), random)
    lucky = set(random.sample(range(len(groups)), more))
    return [
        unit
        for i, group in enumerate(groups)
        for unit in random.sample(group, least + (i in lucky))
    ]


def _by_blocks(units: Sequence[Unit], ratio: float, random: Random) -> set[int]:
    """The units of whole blocks, the same share of every stack's."""
    stacks: dict[str, dict[str, None]] = defaultdict(dict)
    for unit in units:
        stacks[_stack(unit.block)][unit.block] = None
    drawn: set[str] = set()
    for blocks in stacks.values():
        drawn.update(random.sample(list(blocks), _rounded(len(blocks) * ratio, random)))
    return {at for at, unit in enumerate(units) if unit.block in drawn}


def _stack(block: str) -> str:
    """The list that a block stands in: the encoder's, or the decoder's."""
    return block.rpartition(".")[0]


def _rounded(value: float, random: Random) -> int:
    """A whole number whose mean over draws is `value`."""
    whole = math.floor(value + 1e-9)
    return whole + (random.random() < value - whole - 1e-9)


def _by_entries(weights: Sequence[int], ratio: float, random: Random) -> set[int]:
    """Units in random order until the share of entries is as near to the ratio as can be."""
    order = random.sample(range(len(weights)), len(weights))
    target = ratio * sum(weights)
    chosen: set[int] = set()
    so_far = 0
    for unit in order:
        if so_far + weights[unit] / 2 > target:
            break
        chosen.add(unit)
        so_far += weights[unit]
    return chosen
