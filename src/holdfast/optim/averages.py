"""Weights that follow others slowly, and weights put back at random."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def follow(slow: Sequence[Tensor], fast: Sequence[Tensor], share: float) -> None:
    """Exponential moving average, in place: slow <- share slow + (1 - share) fast.

    Args:
        slow: What is moved.
        fast: What is followed; as many tensors of the same shapes.
        share: What stays of `slow`, from 0 to 1.

    Example:
        >>> slow = [torch.tensor([0.0])]
        >>> follow(slow, [torch.tensor([1.0])], 0.75); slow[0].tolist()
        [0.25]
    """
    torch._foreach_lerp_(list(slow), list(fast), 1 - share)


@torch.no_grad()
def put_back(
    tensors: Sequence[Tensor], source: Sequence[Tensor], chance: float, generator: torch.Generator
) -> None:
    """Set entries to those of `source`, each with a chance of its own; in place.

    What is put back equals the source exactly, what is not is untouched.

    Args:
        tensors: Of one device and type.
        source: As many, of the same shapes.
        chance: Of every entry, from 0 to 1.
        generator: Draws, on the tensors' device.

    Source: Wang et al., "Continual test-time domain adaptation" (2022).
    """
    if not chance or not tensors:
        return
    sizes = [tensor.numel() for tensor in tensors]
    coins = torch.empty(sum(sizes), device=tensors[0].device, dtype=tensors[0].dtype)
    coins.bernoulli_(chance, generator=generator)

    def shaped(flat: Tensor) -> list[Tensor]:
        pieces = zip(flat.split(sizes), tensors, strict=True)
        return [piece.view(tensor.shape) for piece, tensor in pieces]

    # Factors of 0 and 1 change nothing in the last bit.
    torch._foreach_mul_(list(tensors), shaped(1 - coins))
    torch._foreach_addcmul_(list(tensors), list(source), shaped(coins))
