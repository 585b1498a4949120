"""The gradient of every group of examples: one pass over all groups, or one pass a group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from holdfast.data import Batch
from holdfast.optim.gradients import flat

if TYPE_CHECKING:
    from holdfast.learner import Learner

AT_ONCE = {"cpu": 2**20, "cuda": 2**26}
"""Numbers of input to pass together. On a GPU more is taken in pieces; on a processor it is taken
group by group, which is quicker there once a group alone keeps it busy (measured on an MLP: 16
groups of 64 MNIST digits take 11 ms together and 19 apart, 16 of 256 take 68 together and 40
apart)."""


def grouped_gradients(
    learner: Learner, groups: Batch, weights: Float[Tensor, "groups rows"], counts: Sequence[int]
) -> Float[Tensor, "groups values"]:
    """Gradient of every group's mean loss by all trainable parameters, flat, in their order.

    Args:
        learner: Its model is taken in the mode that it is in, and examples are augmented, as in
            training.
        groups: Columns `[groups, rows, ...]`.
        weights: Of every row's loss in that of its group: 1 / count, and 0 where a row only fills
            up.
        counts: Of the rows that count, the first of their group.
    """
    numbers = sum(column[0].numel() for column in groups.values())
    together = max(1, AT_ONCE.get(learner.device.type, 2**26) // numbers)
    if _can_be_mapped(learner) and (learner.device.type != "cpu" or together >= len(counts)):
        return _mapped(learner, groups, weights, together)
    parts = ({n: c[k, :count] for n, c in groups.items()} for k, count in enumerate(counts))
    return torch.stack([flat(learner.gradient(part)) for part in parts])


def _can_be_mapped(learner: Learner) -> bool:
    """Batch normalisation writes down what it sees, which cannot be mapped over groups."""
    return learner.objective.vectorised and not any(
        isinstance(part, _BatchNorm) for part in learner.model.modules()
    )


def _mapped(learner: Learner, groups: Batch, weights: Tensor, together: int) -> Tensor:
    flattened = learner.augmented({name: c.flatten(0, 1) for name, c in groups.items()})
    groups = {name: column.unflatten(0, weights.shape) for name, column in flattened.items()}
    trained = {name: p.detach() for name, p in learner.named}
    fixed = {n: p.detach() for n, p in learner.model.named_parameters() if n not in trained}
    fixed.update(learner.model.named_buffers())

    def loss(parameters: dict[str, Tensor], group: Batch, weight: Tensor) -> Tensor:
        def model(*inputs: Any, **named: Any) -> Any:
            return functional_call(learner.model, {**parameters, **fixed}, inputs, named)

        outputs = learner.objective.forward(model, group)
        return (learner.objective.losses(outputs, group) * weight).sum()

    found = vmap(grad(loss), (None, 0, 0), randomness="different", chunk_size=together)(
        trained, groups, weights
    )
    return torch.cat([found[name].flatten(1) for name in trained], 1)
