"""What enters the layers whose gradients can be projected, as columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.data import Table
from holdfast.evaluation import undisturbed
from holdfast.models.heads import GrowingHead

if TYPE_CHECKING:
    from holdfast.learner import Learner

COLUMNS = 20_000
"""At most, a layer: where an example has many positions, fewer examples are looked at."""

AT_ONCE = 50
"""Examples a forward pass."""


def weighing(model: nn.Module) -> dict[str, nn.Module]:
    """By name, in the model's order, the layers whose weight is multiplied by columns of input.

    Linear layers and heads, and convolutions over images.
    """
    kinds = (nn.Linear, GrowingHead, nn.Conv2d)
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, kinds)}


def as_columns(layer: nn.Module, x: Tensor) -> Float[Tensor, "features columns"]:
    """A layer's input as that by which each row of its weight, flat, is multiplied.

    A column is one position of one example; of a convolution, the patch there, padded as it pads.
    """
    if not isinstance(layer, nn.Conv2d):
        return x.flatten(0, -2).T
    how = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    around = F.pad(x, layer._reversed_padding_repeated_twice, how)  # in numbers, also for "same"
    size, dilation, stride = layer.kernel_size, layer.dilation, layer.stride
    return F.unfold(around, size, dilation, 0, stride).transpose(0, 1).flatten(1)


def layer_inputs(
    learner: Learner, table: Table, layers: Mapping[str, nn.Module], most: int = COLUMNS
) -> dict[str, Float[Tensor, "features columns"]]:
    """What enters each layer for the examples of a table, in evaluation mode, not augmented.

    Args:
        learner: Whose model and objective are used.
        table: Examples, in an order without meaning.
        layers: Some of `weighing(learner.model)`.
        most: Columns a layer; of the first examples.

    Returns:
        R a layer that the examples enter, in double precision, or a square matrix S with SS' = RR'
        where R is much wider than high.
    """
    model, objective = learner.model, learner.objective
    with undisturbed(model, device=learner.device), _gathering(layers, most) as gathered:
        for batch in table.to(learner.device).chunks(AT_ONCE):
            objective.forward(model, batch)
    return {name: torch.cat(parts, 1) for name, parts in gathered.items() if parts}


@contextmanager
def _gathering(layers: Mapping[str, nn.Module], most: int) -> Iterator[dict[str, list[Tensor]]]:
    gathered: dict[str, list[Tensor]] = {name: [] for name in layers}
    room = dict.fromkeys(layers, most)

    def note(name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not room[name]:
            return
        columns = as_columns(layer, inputs[0])[:, : room[name]].double()
        room[name] -= columns.shape[1]
        parts = [*gathered[name], columns]
        if sum(part.shape[1] for part in parts) > 4 * len(columns):
            parts = [torch.linalg.qr(torch.cat(parts, 1).T, mode="r")[1].T]
        gathered[name] = parts

    hooks = [layer.register_forward_pre_hook(partial(note, name)) for name, layer in layers.items()]
    try:
        yield gathered
    finally:
        for hook in hooks:
            hook.remove()
