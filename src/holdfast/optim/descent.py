"""What every weight contributes to an update: seen before the optimizer's step and after it.

An update moves weight i by d_i, and so changes the loss by g_i d_i to first order. Path methods add
this up along the whole training; d is the true movement, whatever optimizer, clipping, decay or
mask made it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

Kept = TypeVar("Kept", bound=Tensor)


class Descent:
    """An update's descent of the loss, weight by weight.

    Made when the gradients are complete, of which it keeps a copy (they are clipped and rescaled
    later), and asked after the optimizer's step. Parameters without a gradient contribute nothing.

    Args:
        parameters: Of the model, with their gradients.

    Example:
        >>> weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> weight.square().sum().backward()
        >>> update, path = Descent([weight]), [torch.zeros(2)]
        >>> torch.optim.SGD([weight], lr=0.5).step()
        >>> update.add_to(path); path[0].tolist()
        [2.0, 8.0]
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        self._places = [i for i, p in enumerate(parameters) if p.grad is not None]
        self.gradients = [p.grad.clone() for p in parameters if p.grad is not None]
        self._before = [p.detach().clone() for p in self.moving(parameters)]

    def moving(self, tensors: Sequence[Kept]) -> list[Kept]:
        """Of one tensor a parameter, those whose parameters have a gradient."""
        return [tensors[i] for i in self._places]

    @torch.no_grad()
    def add_to(self, path: Sequence[Tensor]) -> None:
        """Add minus gradient times movement to `path`, one tensor a parameter; asked once."""
        back = self._before
        torch._foreach_sub_(back, self.moving(self._parameters))
        torch._foreach_addcmul_(self.moving(path), self.gradients, back)


@torch.no_grad()
def pull(
    parameters: Sequence[nn.Parameter],
    anchors: Sequence[Tensor],
    importances: Sequence[Tensor],
    strength: float,
) -> None:
    """Add the gradient of `strength` times a quadratic penalty to the gradients that there are.

    What a penalty's backward pass would add (see `losses.quadratic_penalty`), once an update,
    however many forward passes and processes make it.

    Args:
        parameters: With the gradients of everything else.
        anchors: One tensor a parameter.
        importances: Likewise.
        strength: Of half the sum of importance times squared distance.

    Example:
        >>> weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> weight.sum().backward()
        >>> pull([weight], [torch.zeros(2)], [torch.tensor([1.0, 3.0])], 0.5)
        >>> weight.grad.tolist()
        [1.5, 4.0]
    """
    moving = [i for i, p in enumerate(parameters) if p.grad is not None]
    gradients = [p.grad for p in parameters if p.grad is not None]
    away = torch._foreach_sub([parameters[i] for i in moving], [anchors[i] for i in moving])
    torch._foreach_mul_(away, [importances[i] for i in moving])
    torch._foreach_add_(gradients, away, alpha=strength)
