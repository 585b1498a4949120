"""Optimizer state that outlives growth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


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


def carry_state(
    old: Optimizer, old_names: Mapping[int, str], new: Optimizer, new_names: Mapping[int, str]
) -> None:
    """Copy momentum and moments from one optimizer to another, parameter by name.

    Parameters that have grown keep the state of their old part; the new part starts at zero.

    Args:
        old_names: From `id(parameter)` to name for the parameters of `old`; `new_names` likewise.
    """
    by_name: dict[str, tuple[Tensor, dict[str, Any]]] = {}
    for parameter, state in old.state.items():
        if id(parameter) in old_names:
            by_name[old_names[id(parameter)]] = (parameter, state)
    for group in new.param_groups:
        for parameter in group["params"]:
            found = by_name.get(new_names[id(parameter)])
            if found is None:
                continue
            before, state = found
            new.state[parameter] = {
                name: grown(value, parameter.shape)
                if isinstance(value, Tensor) and value.shape == before.shape
                else value
                for name, value in state.items()
            }
