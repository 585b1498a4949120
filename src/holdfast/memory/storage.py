"""Which rows a buffer keeps, as slots to write to; no loop over rows, no synchronisation.

All functions answer with one slot for every row offered. Slot `capacity` is a spare row past the
end: what goes there is not kept.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def reservoir_slots(
    seen: int, rows: int, capacity: int, generator: torch.Generator
) -> Int[Tensor, " rows"]:
    """Algorithm R (Vitter, "Random sampling with a reservoir", 1985) for `rows` at once.

    Row number n (from 0, over the whole stream) goes to slot n while there is room; after that
    to a slot drawn from 0..n if that is below the capacity, and is dropped otherwise. Where two
    rows of one call draw the same slot, the later one has it, as if they had come one by one.
    """
    device = generator.device
    number = torch.arange(seen, seen + rows, device=device)
    if seen + rows <= capacity:
        return number
    drawn = torch.rand(rows, generator=generator, device=device, dtype=torch.float64)
    slots = torch.where(number < capacity, number, (drawn * (number + 1)).long())
    slots.clamp_(max=capacity)
    taken_later = (slots[:, None] == slots).triu(1).any(1)
    return slots.masked_fill_(taken_later, capacity)


def keep_least(
    held_group: Int[Tensor, " capacity"],
    held_key: Float[Tensor, " capacity"],
    stored: int,
    group: Int[Tensor, " rows"],
    key: Float[Tensor, " rows"],
) -> tuple[Int[Tensor, " rows"], Int[Tensor, " rows"]]:
    """Keep equal numbers of every group, in each the rows with the least keys.

    All rows are ranked within their group by key, and the `capacity` rows of least rank stay: the
    largest groups give up rows first, and a small group is never touched before it is among the
    largest. With random keys each group holds a uniform sample of all its rows, because the number
    of rows that a full group may keep only ever falls.

    Returns:
        The slot for every row offered, and the order of the rows offered to which it refers.
    """
    capacity, rows = len(held_key), len(key)
    groups, keys = torch.cat([held_group, group]), torch.cat([held_key, key])
    total = len(keys)
    position = torch.arange(total, device=keys.device)
    vacant = (position >= stored) & (position < capacity)
    groups = groups.masked_fill(vacant, torch.iinfo(groups.dtype).max)

    order = keys.argsort(stable=True)
    order = order[groups[order].argsort(stable=True)]  # by group, then by key
    sorted_groups = groups[order]
    first = torch.searchsorted(sorted_groups, sorted_groups)
    rank = torch.empty_like(position)
    rank[order] = position - first
    rank.masked_fill_(vacant, total)

    by_rank = order[rank[order].argsort(stable=True)]  # by rank, then by group
    kept = torch.zeros(total, dtype=torch.bool, device=keys.device)
    kept[by_rank[:capacity]] = True
    kept &= ~vacant

    free = kept[:capacity].long().argsort(stable=True)  # slots to write to come first
    entering = (~kept[capacity:]).long().argsort(stable=True)  # rows that are kept come first
    slots = torch.full((rows,), capacity, device=keys.device)
    fitting = min(rows, capacity)
    slots[:fitting] = free[:fitting]
    return slots.masked_fill(~kept[capacity:][entering], capacity), entering


def dissimilar_slots(
    held: Float[Tensor, " stored"],
    capacity: int,
    score: Float[Tensor, " rows"],
    admitted: Bool[Tensor, " rows"],
    generator: torch.Generator,
) -> Int[Tensor, " rows"]:
    """Give up what is alike for what is unlike, by chance.

    Rows go to free slots while there are any. Each further one draws a held row i with probability
    held_i / sum held, no two the same, and takes its slot with probability
    held_i / (held_i + score).

    Args:
        held: Scores of the rows held, not negative: the larger, the more alike others.
        capacity: Slots in all.
        score: Of the rows offered.
        admitted: Whether each row may take another's slot.
        generator: On the scores' device.

    Source: Aljundi et al., "Gradient based sample selection" (2019), algorithm 2.
    """
    stored, rows = len(held), len(score)
    free = min(capacity - stored, rows)
    draws = min(rows - free, stored)
    if draws < rows:
        slots = torch.arange(stored, stored + rows, device=held.device)
        slots[free:] = capacity
        if draws:
            late = slice(free, free + draws)
            slots[late] = _rivals(held, capacity, score[late], admitted[late], generator)
        return slots
    return _rivals(held, capacity, score, admitted, generator)


def greatest_slots(
    held: Float[Tensor, " stored"], capacity: int, score: Float[Tensor, " rows"]
) -> Int[Tensor, " rows"]:
    """Keep the rows of greatest score, of those held and those offered.

    Args:
        held: Scores of the rows held.
        capacity: Slots in all.
        score: Of the rows offered.

    Example:
        >>> greatest_slots(torch.tensor([3.0, 1.0, 2.0]), 3, torch.tensor([0.0, 9.0])).tolist()
        [3, 1]
    """
    stored, rows = len(held), len(score)
    if stored + rows <= capacity:
        return torch.arange(stored, stored + rows, device=held.device)
    kept = torch.zeros(max(capacity, stored) + rows, dtype=torch.bool, device=held.device)
    greatest = torch.cat([held, score]).topk(capacity).indices
    kept[torch.where(greatest < stored, greatest, greatest - stored + capacity)] = True
    free = kept[:capacity].long().argsort(stable=True)  # slots to write to come first
    place = kept[capacity:].long().cumsum(0) - 1  # of each row that is kept, among those
    return torch.where(kept[capacity:], free[place.clamp(min=0)], capacity)


def _rivals(
    held: Tensor, capacity: int, score: Tensor, admitted: Tensor, generator: torch.Generator
) -> Tensor:
    """As `dissimilar_slots`, for no more rows than are held, once there is no free slot."""
    # Who comes first in a race of exponential times is drawn in proportion to the rates; a score
    # of 0 comes last.
    times = torch.empty_like(held).exponential_(generator=generator).div_(held)
    drawn = times.topk(len(score), largest=False).indices
    rival = held[drawn]
    chance = torch.rand(score.shape, generator=generator, device=held.device)
    takes = (chance < rival / (rival + score)) & admitted
    return drawn.masked_fill_(~takes, capacity)
