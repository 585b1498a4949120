"""How alike the gradients of single examples are to those of groups of others.

Where all weights lie in linear layers, no gradient is ever formed: with a_i what entered a
layer for example i, and d_i what came back to it, the gradient of example i's loss is d_i a_i^T,
and

    <g_i, g_j> = sum over layers of (d_i . d_j) (a_i . a_j + 1),

the 1 for the bias: two small products of matrices a layer. A group's gradient is a mean of single
ones, so its products with others, and with itself, are means of these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from holdfast.data import Batch, concat, size
from holdfast.models.heads import GrowingHead
from holdfast.optim.layer_uses import Use, layer_uses, trained_layers

Losses = Callable[[Callable[..., Any], Batch], Float[Tensor, " examples"]]


class _Products(NamedTuple):
    """Inner products of gradients: rows with themselves, with groups, groups with themselves."""

    rows: Float[Tensor, " rows"]
    across: Float[Tensor, "rows groups"]
    groups: Float[Tensor, " groups"]


def gradient_similarity(
    model: nn.Module, losses: Losses, rows: Batch, others: Batch, groups: int
) -> Float[Tensor, "rows groups"]:
    """Cosines between the gradients of single examples and those of groups of others.

    Gradients are those of each one's loss, and of a group's mean loss, by all trained weights.
    Where all of these lie in linear layers, each used once on inputs of two dimensions, one pass
    answers for all rows and groups; otherwise every gradient is formed, `rows + groups` times the
    model's weights (those of the rows by `torch.func.vmap`).

    Args:
        model: In evaluation mode: an example must not depend on its neighbours.
        losses: From a model, which may be this one with other weights, and a batch to one loss an
            example.
        rows: The single examples.
        others: Of as many columns: the groups, one after another, of equal size.
        groups: How many.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> def losses(model, batch):
        ...     return model(batch["x"]).squeeze(1)
        >>> rows, others = torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0], [0.0, 3.0]])
        >>> gradient_similarity(layer, losses, {"x": rows}, {"x": others}, groups=2)
        tensor([[1., 0.]])
    """
    products = _in_one_pass(model, losses, rows, others, groups)
    if products is None:
        products = _one_by_one(model, losses, rows, others, groups)
    # Rounding may leave a group whose gradients cancel below zero.
    lengths = products.rows.sqrt()[:, None] * products.groups.clamp(min=0).sqrt()
    return products.across / lengths.clamp(min=torch.finfo(lengths.dtype).tiny)


def _in_one_pass(
    model: nn.Module, losses: Losses, rows: Batch, others: Batch, groups: int
) -> _Products | None:
    layers = trained_layers(model)
    if not all(map(_linear, layers)):
        return None
    count, joint = size(rows), concat(rows, others)
    uses = layer_uses(layers, lambda: losses(model, joint), size(joint))
    if uses is None or not _once_each(layers, uses, size(joint)):
        return None
    with torch.inference_mode():
        parts = [_of_layer(use, count, groups) for use in uses]
        whole, within = (sum(same[1:], same[0]) for same in zip(*parts, strict=True))
    across = whole[:, count:].view(count, groups, -1).mean(2)
    return _Products(whole[:, :count].diagonal(), across, within.mean((1, 2)))


def _linear(layer: nn.Module) -> bool:
    return type(layer).forward in (nn.Linear.forward, GrowingHead.forward)


def _once_each(layers: list[nn.Module], uses: list[Use], examples: int) -> bool:
    """Whether every layer is used once, on one input an example, and shares no weight."""
    weights = [p for layer in layers for p in layer._parameters.values() if p is not None]
    return (
        len({id(use.layer) for use in uses}) == len(uses) == len(layers)
        and len({id(p) for p in weights}) == len(weights)
        and all(use.entered.dim() == 2 and use.entered.shape[0] == examples for use in uses)
    )


def _of_layer(use: Use, count: int, groups: int) -> tuple[Tensor, Tensor]:
    """A layer's part in the products of rows with all examples, and of others in their groups."""
    weight, bias = (p is not None and p.requires_grad for p in (use.layer.weight, use.layer.bias))

    def products(backs: Tensor, forths: Tensor) -> Tensor:
        """Of gradients, from those of what came back and of what entered."""
        if weight and bias:
            return torch.addcmul(backs, backs, forths)
        return backs * forths if weight else backs

    forth, back = use.entered, use.returned
    old_forth, old_back = (x[count:].view(groups, -1, x.shape[1]) for x in (forth, back))
    return (
        products(torch.mm(back[:count], back.T), torch.mm(forth[:count], forth.T)),
        products(torch.bmm(old_back, old_back.mT), torch.bmm(old_forth, old_forth.mT)),
    )


def _one_by_one(
    model: nn.Module, losses: Losses, rows: Batch, others: Batch, groups: int
) -> _Products:
    """The same from the gradients themselves: of all rows at once, and of one group after another.

    To take the groups' at once, too, would leave the ordinary backward pass, and be half as fast.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def loss(weights: dict[str, Tensor], batch: Batch) -> Tensor:
        def moved(*inputs: Any, **named: Any) -> Any:
            return functional_call(model, weights, inputs, named)

        return losses(moved, batch).mean()

    def of_group(columns: tuple[Tensor, ...]) -> Float[Tensor, " weights"]:
        with torch.enable_grad():
            mean = losses(model, dict(zip(rows, columns, strict=True))).mean()
        found = torch.autograd.grad(mean, list(trained.values()), materialize_grads=True)
        return torch.cat([g.reshape(-1) for g in found])

    held = {name: p.detach() for name, p in trained.items()}
    singly = {name: column.unsqueeze(1) for name, column in rows.items()}
    found = vmap(grad(loss), in_dims=(None, 0))(held, singly)
    own = torch.cat([g.reshape(size(rows), -1) for g in found.values()], 1)
    parts = zip(*(others[name].chunk(groups) for name in rows), strict=True)
    theirs = torch.stack([of_group(columns) for columns in parts])
    return _Products(own.square().sum(1), own @ theirs.T, theirs.square().sum(1))
