"""Projected updates: weights do not move inside a subspace of what enters their layer.

Where the movement D of a weight W gives D x = 0 for every x of the subspace, the layer answers to
these inputs as before. Projecting a gradient is enough for plain gradient descent; old momentum,
Adam's division and weight decay move a weight in other directions than its gradient. So the
movement itself is projected, after the optimizer's step.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils.hooks import RemovableHandle


class ProjectedUpdates:
    """Keeps weights from moving inside subspaces, through any optimizer's step.

    Only the weights given are copied, and only while a step is made. No step waits for the device.

    Args:
        spaces: Weights, `[out, ...]`, with an orthonormal basis of their subspace: as many rows as
            a row of the weight, flat, has entries.

    Example:
        >>> weight = nn.Parameter(torch.ones(1, 2))
        >>> optimizer = torch.optim.AdamW([weight], lr=0.1)
        >>> updates = ProjectedUpdates([(weight, torch.tensor([[0.6], [0.8]]))])
        >>> handles = updates.guard(optimizer)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight[0].tolist() != [1.0, 1.0], round((weight @ torch.tensor([0.6, 0.8])).item(), 4)
        (True, 1.4)
    """

    def __init__(self, spaces: Iterable[tuple[nn.Parameter, Tensor]]) -> None:
        self.spaces = [(weight, *_smaller(basis.to(weight))) for weight, basis in spaces]
        self._kept: list[Tensor] = []

    @torch.no_grad()
    def project_gradients(self) -> None:
        """Take from every gradient its part inside the subspace."""
        for weight, basis, inside in self.spaces:
            if weight.grad is not None:
                weight.grad = _outside(weight.grad, basis, inside)

    @torch.no_grad()
    def before(self) -> None:
        """Before the optimizer's step: project the gradients, and keep where the weights are."""
        self.project_gradients()
        self._kept = [weight.clone() for weight, _, _ in self.spaces]

    @torch.no_grad()
    def after(self) -> None:
        """After the optimizer's step: take back what moved inside the subspaces."""
        for (weight, basis, inside), was in zip(self.spaces, self._kept, strict=False):
            weight.copy_(was + _outside(weight - was, basis, inside))
        self._kept = []

    def guard(self, optimizer: Optimizer) -> tuple[RemovableHandle, RemovableHandle]:
        """Do both at every step of an optimizer, until the handles are removed."""
        return (
            optimizer.register_step_pre_hook(lambda *_: self.before()),
            optimizer.register_step_post_hook(lambda *_: self.after()),
        )


def steps_are_sums(optimizer: Optimizer) -> bool:
    """Whether an optimizer moves weights by sums of gradients and nothing else.

    Then what gradients avoid is avoided by steps: by those of an optimizer that has seen no others.
    """
    plain = type(optimizer) is SGD
    return plain and not any(group["weight_decay"] for group in optimizer.param_groups)


def _smaller(basis: Float[Tensor, "features rank"]) -> tuple[Tensor, bool]:
    """Of a subspace and its complement the basis of the smaller, and whether it is the subspace."""
    features, rank = basis.shape
    if 2 * rank <= features:
        return basis, True
    whole, _ = torch.linalg.qr(basis.double(), mode="complete")
    return whole[:, rank:].to(basis), False


def _outside(change: Tensor, basis: Tensor, inside: bool) -> Tensor:
    """The part of every row of a change that lies outside the subspace."""
    rows = change.flatten(1)
    part = rows @ basis @ basis.T
    return (rows - part if inside else part).view_as(change)
