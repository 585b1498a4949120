"""What enters every trained layer and what comes back to it, from one pass over a batch.

The gradient of one example's loss by a layer's weights is made of these two, over that example's
positions. Both are at hand for all examples after one pass, so nothing has to be passed through
the model one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass
class Use:
    """One call of a layer.

    Attributes:
        layer: That was called.
        entered: Its input, the first dimension the example.
        left: Its output.
        returned: Gradient of the summed losses by the output.
    """

    layer: nn.Module
    entered: Tensor
    left: Tensor
    returned: Tensor


def trained_layers(model: nn.Module) -> list[nn.Module]:
    """Layers with trainable weights of their own."""
    return [
        layer
        for layer in model.modules()
        if any(p is not None and p.requires_grad for p in layer._parameters.values())
    ]


def layer_uses(
    layers: Sequence[nn.Module], losses: Callable[[], Float[Tensor, " examples"]], examples: int
) -> list[Use] | None:
    """Pass a batch through a model and back, and tell every use of some layers, in order.

    Gradients by weights are not formed, and no `.grad` is touched.

    Args:
        layers: Of the model; see `trained_layers`.
        losses: Passes the batch through the model; one loss an example, which must not depend on
            its neighbours in the batch.
        examples: Of the batch.

    Returns:
        The uses; None where a layer's input or output was overwritten later in the pass.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
        >>> (use,) = layer_uses([layer], lambda: 5 * layer(x).squeeze(1), examples=2)
        >>> use.entered.tolist(), use.returned.tolist()
        ([[1.0, 2.0], [3.0, 0.0]], [[5.0], [5.0]])
    """
    with _watching(layers, examples) as calls, torch.enable_grad():
        each = losses()
        if any((call.entered._version, call.left._version) != call.versions for call in calls):
            return None
        ends = [call.left for call in calls]
        found = torch.autograd.grad(each, ends, torch.ones_like(each), allow_unused=True)
    return [
        Use(c.layer, c.entered, c.left, torch.zeros_like(c.left) if returned is None else returned)
        for c, returned in zip(calls, found, strict=True)
    ]


class _Call(NamedTuple):
    layer: nn.Module
    entered: Tensor
    left: Tensor
    versions: tuple[int, int]


@contextmanager
def _watching(layers: Sequence[nn.Module], examples: int) -> Iterator[list[_Call]]:
    """Every call of some layers, with its input and its output."""
    calls: list[_Call] = []

    def apart(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Positions are looked up once for all examples; their gradients would be one sum."""
        shared = len(inputs[0]) == 1
        return (inputs[0].expand(examples, *inputs[0].shape[1:]),) if shared else None

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        entered = inputs[0].detach()  # shares its version with the input
        calls.append(_Call(layer, entered, output, (entered._version, output._version)))

    embeddings = [layer for layer in layers if isinstance(layer, nn.Embedding)]
    hooks = [layer.register_forward_pre_hook(apart) for layer in embeddings]
    hooks += [layer.register_forward_hook(note) for layer in layers]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
