"""Masked updates: a zero in the mask is no movement, whatever the optimizer.

Masking a gradient is not enough: Adam's old moments, momentum and weight decay move a parameter
whose gradient is zero. So what is masked is put back after the optimizer's step. `ScaledUpdates`
is the soft form, in which an entry may go part of the way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

Masks = Iterable[tuple[nn.Parameter, Tensor]]


class MaskedUpdates:
    """Keeps the masked entries of parameters where they are, through any optimizer's step.

    Only the parameters given are copied, and only while a step is made. No step waits for the
    device.

    Args:
        masks: Parameters with their masks: bool, True where the entry may move, of any shape that
            broadcasts against the parameter (a mask of rows is `[rows, 1]`). A parameter given
            twice moves where both masks let it.
        freeze_state: Whether the optimizer's state of masked entries (momentum, moments) stays as
            it was, too. Otherwise it decays as if the gradient had been zero. State that has
            another shape than its parameter (Adafactor's factors) is shared by entries and cannot
            be kept apart.

    Example:
        >>> weight = nn.Parameter(torch.ones(2))
        >>> optimizer = torch.optim.AdamW([weight], lr=0.1)
        >>> updates = MaskedUpdates([(weight, torch.tensor([True, False]))])
        >>> handles = updates.guard(optimizer)
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> weight[0].item() < 1, weight[1].item()
        (True, 1.0)
    """

    def __init__(self, masks: Masks, *, freeze_state: bool = True) -> None:
        together: dict[nn.Parameter, Tensor] = {}
        for parameter, mask in masks:
            before = together.get(parameter)
            together[parameter] = mask if before is None else before & mask
        self.masks, self.freeze_state = together, freeze_state
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []  # tensor, mask, as it was
        self._state: list[tuple[nn.Parameter, Tensor, frozenset[Any]]] = []

    def mask_gradients(self) -> None:
        """Zero the gradients of masked entries."""
        masks = [(p.grad, mask) for p, mask in self.masks.items() if p.grad is not None]
        if masks:
            torch._foreach_mul_([g for g, _ in masks], [m.to(g.dtype) for g, m in masks])

    def before(self, optimizer: Optimizer) -> None:
        """Before the optimizer's step: mask the gradients, and keep what must not move."""
        self.mask_gradients()
        moving = [(p, m) for p, m in self.masks.items() if p.grad is not None]
        held: list[tuple[Tensor, Tensor]] = [(p.detach(), m) for p, m in moving]
        self._state = []
        if self.freeze_state:
            for parameter, mask in moving:
                state = _entrywise(optimizer, parameter)
                held += [(tensor, mask) for tensor in state.values()]
                self._state.append((parameter, mask, frozenset(state)))
        self._kept = [(tensor, mask, tensor.clone()) for tensor, mask in held]

    def after(self, optimizer: Optimizer) -> None:
        """After the optimizer's step: put back what must not move."""
        if not self._kept:
            return
        put = [torch.where(mask, tensor, was) for tensor, mask, was in self._kept]
        torch._foreach_copy_([tensor for tensor, _, _ in self._kept], put)
        for parameter, mask, known in self._state:
            for name, tensor in _entrywise(optimizer, parameter).items():
                if name not in known:  # made by this step, and so from zero
                    tensor.mul_(mask.to(tensor.dtype))
        self._kept, self._state = [], []

    def guard(self, optimizer: Optimizer) -> tuple[RemovableHandle, RemovableHandle]:
        """Do both at every step of an optimizer, until the handles are removed."""
        return (
            optimizer.register_step_pre_hook(lambda *_: self.before(optimizer)),
            optimizer.register_step_post_hook(lambda *_: self.after(optimizer)),
        )


class ScaledUpdates:
    """Scales how far an optimizer's step moves each entry of parameters, whatever the optimizer.

        theta <- theta + factor * (step(theta) - theta)

    With plain SGD, also with momentum, this is the step along a gradient that was multiplied by
    the factor. Adam divides by the size of its gradients, which takes such a factor out again, and
    weight decay does not pass through gradients: here both are scaled too. A factor of 0 is no
    movement, to the bit, and one of 1 the optimizer's own.

    Args:
        factors: Parameters with their factors, from 0 to 1, of any shape that broadcasts against
            the parameter.

    Example:
        >>> weight = nn.Parameter(torch.ones(3))
        >>> optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.0)
        >>> updates = ScaledUpdates([(weight, torch.tensor([1.0, 0.5, 0.0]))])
        >>> weight.sum().backward()
        >>> updates.before(); optimizer.step(); updates.after()
        >>> [round(entry, 4) for entry in weight.tolist()]
        [0.9, 0.95, 1.0]
    """

    def __init__(self, factors: Iterable[tuple[nn.Parameter, Tensor]]) -> None:
        self.factors = [(p, factor.expand_as(p)) for p, factor in factors]
        self._open = [factor.ceil() for _, factor in self.factors]
        self._was: list[Tensor] = []

    def before(self) -> None:
        """Before the optimizer's step: keep what is, and zero gradients where nothing may move."""
        graded = [
            (p.grad, o)
            for (p, _), o in zip(self.factors, self._open, strict=True)
            if p.grad is not None
        ]
        if graded:  # so that clipping counts only what moves
            torch._foreach_mul_([g for g, _ in graded], [o for _, o in graded])
        self._was = [p.detach().clone() for p, _ in self.factors]

    def after(self) -> None:
        """After the optimizer's step: go only the scaled part of the way."""
        now = [p.detach() for p, _ in self.factors]
        factors = [factor for _, factor in self.factors]
        torch._foreach_copy_(now, torch._foreach_lerp(self._was, now, factors))
        self._was = []


def _entrywise(optimizer: Optimizer, parameter: nn.Parameter) -> dict[Any, Tensor]:
    """The optimizer's state that has one value for every entry of the parameter."""
    return {
        name: value
        for name, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor) and value.shape == parameter.shape and value.dim()
    }
