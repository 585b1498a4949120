"""Squares (or sizes) of every example's gradient, summed over a batch, from one pass over it.

The gradient of one example's loss by the weights of a linear layer is the product of what entered
the layer and what came back to it (`layer_uses`), over that example's positions. Where an example
has a single position, as in a network of fully connected layers, no gradient need be formed: the
square of a product is the product of the squares, so that the sum over examples is one product of
two matrices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from holdfast.models.heads import GrowingHead
from holdfast.optim.layer_uses import Use, layer_uses, trained_layers

AT_ONCE = 2**24
"""Numbers of per-example gradients that are held at a time."""


def squared_gradients(
    model: nn.Module,
    losses: Callable[[], Float[Tensor, " examples"]],
    examples: int,
    measure: Callable[[Tensor], Tensor] = torch.square,
    weight: Float[Tensor, " examples"] | None = None,
) -> list[Tensor] | None:
    """Sum over examples of the squared gradient of each one's loss, or of another measure of it.

    Args:
        model: Its trainable weights lie in linear layers (also GPT-2's), embeddings and
            normalisations of single positions. An example must not depend on its neighbours in the
            batch.
        losses: Passes a batch through the model; one loss an example.
        examples: Of the batch.
        measure: Of a gradient, entry by entry: `torch.square` or `torch.abs`, or another with which
            the measure of a product is that of its factors, multiplied.
        weight: What each example counts; None: one.

    Returns:
        One tensor a trainable parameter, in the model's order; None where some layer with trainable
        weights is of another kind, is not called as a layer, does not keep examples apart, or has
        its output overwritten.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[[1.0, 2.0]], [[3.0, 0.0]]])
        >>> squared_gradients(layer, lambda: layer(x).sum((1, 2)), 2)
        [tensor([[10.,  4.]])]
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    layers = trained_layers(model)
    if not all(map(known, layers)):
        return None
    uses = layer_uses(layers, losses, examples)
    if uses is None or len({id(use.layer) for use in uses}) < len(layers):
        return None
    if any(len(use.left) != examples or not _as_computed(use) for use in uses):
        return None
    of: dict[int, list[tuple[Use, str]]] = {id(p): [] for p in trained}
    for use in uses:
        for name, parameter in use.layer.named_parameters(recurse=False):
            if id(parameter) in of:
                of[id(parameter)].append((use, name))
    return [_measured(p, of[id(p)], examples, measure, weight) for p in trained]


def _measured(
    parameter: Tensor,
    uses: list[tuple[Use, str]],
    examples: int,
    measure: Callable[[Tensor], Tensor],
    weight: Tensor | None,
) -> Tensor:
    """A weight that is used twice (tied embeddings) has the sum of both gradients, measured."""
    if len(uses) == 1 and _single(uses[0][0]):
        use, name = uses[0]
        back = measure(use.returned)
        if weight is not None:
            back = back * weight[:, None]
        return back.sum(0) if name == "bias" else back.T @ measure(use.entered)
    total = torch.zeros_like(parameter)
    step = max(1, AT_ONCE // parameter.numel())
    for start in range(0, examples, step):
        rows = slice(start, start + step)
        gradients = _gradients(*uses[0], rows)
        for use, name in uses[1:]:
            gradients = gradients + _gradients(use, name, rows)
        measured = measure(gradients)
        if weight is not None:
            measured *= weight[rows].view(-1, *[1] * (measured.dim() - 1))
        total += measured.sum(0)
    return total


def _single(use: Use) -> bool:
    """Whether a linear layer was given one position an example."""
    return _linear(use.layer) and use.entered.dim() == 2


def _gradients(use: Use, name: str, rows: slice) -> Float[Tensor, "examples ..."]:
    """Gradient of each of some examples' losses by the layer's own parameter `name`."""
    back = _by_position(use.returned[rows])
    if isinstance(use.layer, nn.Embedding):
        return _embedded(use.layer, use.entered[rows].flatten(1), back)
    if name == "bias":
        return back.sum(1)
    forth = _by_position(use.entered[rows])
    if _linear(use.layer):
        return back.transpose(1, 2) @ forth
    if type(use.layer).__name__ == "Conv1D":
        return forth.transpose(1, 2) @ back
    return (back * normalised(use.layer, forth)).sum(1)


def normalised(layer: nn.Module, entered: Tensor) -> Tensor:
    """What a normalisation makes of its input before its weights."""
    width = (entered.shape[-1],)
    if isinstance(layer, nn.LayerNorm):
        return functional.layer_norm(entered, width, eps=layer.eps)
    return functional.rms_norm(entered, width, eps=_eps(layer))


def _by_position(states: Tensor) -> Float[Tensor, "examples positions width"]:
    return states.reshape(len(states), -1, states.shape[-1])


def _embedded(layer: nn.Embedding, ids: Tensor, back: Tensor) -> Tensor:
    rows, words = len(ids), layer.num_embeddings
    places = ids + words * torch.arange(rows, device=ids.device)[:, None]
    flat = back.new_zeros(rows * words, back.shape[-1])
    flat.index_add_(0, places.flatten(), back.flatten(0, 1))
    gradients = flat.view(rows, words, -1)
    if layer.padding_idx is not None:
        gradients[:, layer.padding_idx] = 0
    return gradients


def known(layer: nn.Module) -> bool:
    """Whether the gradients of single examples by a layer's weights are told by its uses."""
    if _linear(layer) or type(layer) in (nn.Embedding, nn.LayerNorm):
        return True
    return type(layer).__name__.endswith(("Conv1D", "RMSNorm"))


def _linear(layer: nn.Module) -> bool:
    """A linear layer or head that does as such, also under a name of its own."""
    return type(layer).forward in (nn.Linear.forward, GrowingHead.forward)


def _eps(layer: Any) -> float:
    return float(layer.variance_epsilon if hasattr(layer, "variance_epsilon") else layer.eps)


def _as_computed(use: Use) -> bool:
    """Whether a normalisation known by its name alone does what we take it to do."""
    layer: Any = use.layer
    if not type(layer).__name__.endswith("RMSNorm"):
        return True
    plain = normalised(layer, use.entered)
    return any(
        torch.allclose(plain * weight, use.left, rtol=1e-3, atol=1e-5)
        for weight in (layer.weight, 1 + layer.weight)
    )
