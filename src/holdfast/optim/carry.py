"""Optimizer state that outlives growth."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Named = Sequence[tuple[str, nn.Parameter]]


def grown(tensor: Tensor, shape: torch.Size) -> Tensor:
    """The tensor in the leading corner of zeros of a larger shape; itself if the shape is equal.

    Raises:
        ValueError: If the shape is smaller in some dimension, or of another rank.
    """
    if tensor.shape == shape:
        return tensor
    if tensor.dim() != len(shape) or any(a > b for a, b in zip(tensor.shape, shape, strict=True)):
        raise ValueError(f"A tensor of shape {tuple(tensor.shape)} does not fit in {tuple(shape)}.")
    larger = tensor.new_zeros(shape)
    larger[tuple(slice(n) for n in tensor.shape)] = tensor
    return larger


def carry_state(old: Optimizer, old_named: Named, new: Optimizer, new_named: Named) -> None:
    """Copy momentum and moments from one optimizer to another, parameter by name.

    Parameters that have grown keep the state of their old part; the new part starts at zero.

    Args:
        old_named: Names and parameters of `old`; `new_named` likewise.
    """
    before = dict(old_named)
    for name, parameter in new_named:
        if name not in before:
            continue
        shape = before[name].shape
        state = {
            key: grown(value, parameter.shape)
            if isinstance(value, Tensor) and value.shape == shape
            else value
            for key, value in old.state.get(before[name], {}).items()
        }
        if state:
            new.state[parameter] = state
