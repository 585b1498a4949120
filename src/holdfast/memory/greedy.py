"""The greedy sampler: balanced classes, first come, first kept."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Int
from torch import Tensor


def greedily_kept(
    held: Int[Tensor, " held"],
    offered: Int[Tensor, " offered"],
    capacity: int,
    generator: torch.Generator,
    seen: Iterable[int] = (),
) -> Int[Tensor, " kept"]:
    """Which rows stay, when others are offered one after another to a memory.

    A class may hold capacity / (classes seen so far) rows. A row is taken if its class is new or
    holds fewer; in a full memory it takes the place of a row drawn from the largest class. All
    others are let pass: unlike a reservoir, the memory does not go on changing, and unlike storage
    that balances what it gives up, a class at its quota gets no more while there is room.

    The rule is sequential, and so is this: a few operations of the host for every row offered.

    Args:
        held: Labels of the rows in the memory, at most `capacity`.
        offered: Labels of the rows offered, in order.
        capacity: Rows kept at most.
        generator: Draws which rows of the largest class go.
        seen: Classes that were offered before, whether or not a row of them is still held.

    Returns:
        Places in the rows held followed by the rows offered.

    Source: Prabhu et al., "GDumb: a simple approach that questions our progress in continual
    learning" (2020), algorithm 1.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> labels = torch.tensor([0, 0, 0, 1, 1, 1])
        >>> kept = greedily_kept(labels[:0], labels, 4, generator)
        >>> labels[kept].tolist()
        [0, 0, 1, 1]
    """
    places: dict[int, list[int]] = {label: [] for label in seen}
    for place, label in enumerate(held.tolist()):
        places.setdefault(label, []).append(place)
    stored = len(held)
    draws = torch.rand(
        len(offered), generator=generator, device=generator.device, dtype=torch.float64
    ).tolist()
    for place, (label, draw) in enumerate(zip(offered.tolist(), draws, strict=True), len(held)):
        if label in places and len(places[label]) * len(places) >= capacity:
            continue
        if stored < capacity:
            stored += 1
        else:
            largest = max(places.values(), key=len)
            largest.pop(int(draw * len(largest)))
        places.setdefault(label, []).append(place)
    kept = [place for members in places.values() for place in members]
    return torch.tensor(kept, dtype=torch.long, device=offered.device)
