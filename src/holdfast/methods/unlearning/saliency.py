"""A mask over weights: only those that matter for what is to be forgotten move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from holdfast.data import Table
from holdfast.errors import UsageError
from holdfast.evaluation import undisturbed
from holdfast.memory.parameters import ParameterStore
from holdfast.method import Method, Tags
from holdfast.optim.gradients import flat, shaped
from holdfast.optim.masked import MaskedUpdates

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience

ROWS = 64
"""Examples a pass, when the gradient of the forget set is taken."""


@dataclass
class _Built:
    """Masked updates, and the parameters that they are of."""

    named: Sequence[tuple[str, Tensor]]
    updates: MaskedUpdates


class Saliency(Method):
    """A saliency mask: of all weights, only those with the largest forget gradient are updated.

        M = 1 where |grad of the forget set's mean loss at the original weights| is among the top
            share of all weights together, 0 elsewhere;   theta <- theta_0 + M (theta - theta_0)

    To be chained with any way of unlearning: `ga+saliency`, `scrub+saliency(share=0.3)`. Masked
    weights stay to the bit: neither momentum nor weight decay moves them. Statistics of batch
    normalisation are no weights, and move.

    Args:
        share: Of the weights that may move, over all tensors jointly.

    Raises:
        UsageError: If `share` is not above 0 and at most 1.

    Differs from the paper: the gradient is that of the mean over the whole forget set; its code
    adds the gradients of batch means, which differ where the last batch is smaller.
    """

    tags = Tags(
        family="unlearning",
        title="SalUn: Empowering machine unlearning via gradient-based weight saliency in both "
        "image classification and generation",
        source="Fan et al., 2024",
        scenarios=frozenset({"class", "domain", "text"}),
        needs=frozenset({"boundaries"}),
        keeps=frozenset({"parameters"}),
    )
    chooses_weights = True

    def __init__(self, share: float = 0.5) -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise UsageError(f"share must be above 0 and at most 1; given: {share}.")
        self.share = share
        self.masks = ParameterStore()
        self.built: _Built | None = None

    def begin(self, learner: Learner, experience: Experience) -> None:
        found = forget_gradient(learner, experience.train)
        masks = top_share([gradient.abs() for gradient in found], self.share)
        names = [name for name, _ in learner.named]
        self.masks.put(zip(names, masks, strict=True))
        self.built = None

    def gradients(self, learner: Learner) -> None:
        if self.built is None or self.built.named is not learner.named:  # restored, or grown
            masks = self.masks.get(learner.named)
            updates = MaskedUpdates(zip(learner.parameters, masks, strict=True))
            self.built = _Built(learner.named, updates)
        self.built.updates.before(learner.optimizer)

    def step(self, learner: Learner) -> None:
        assert self.built is not None
        self.built.updates.after(learner.optimizer)


def forget_gradient(learner: Learner, table: Table) -> list[Tensor]:
    """Gradient of the mean loss on a table by every trained parameter, in evaluation mode."""
    total = [torch.zeros_like(parameter) for parameter in learner.parameters]
    weights = torch.zeros((), device=learner.device)
    objective = learner.objective
    with undisturbed(learner.model, device=learner.device), torch.enable_grad():
        for batch in table.to(learner.device).chunks(ROWS):
            weight = objective.weight(batch)
            loss = objective.loss(objective.forward(learner.model, batch), batch) * weight
            found = torch.autograd.grad(
                loss, learner.parameters, allow_unused=True, materialize_grads=True
            )
            torch._foreach_add_(total, found)
            weights += weight
    torch._foreach_div_(total, weights)
    return total


def top_share(values: Sequence[Tensor], share: float) -> list[Tensor]:
    """True at the largest entries of all tensors together: their `share`, one at least.

    Example:
        >>> masks = top_share([torch.tensor([3.0, 1.0]), torch.tensor([[2.0, 4.0]])], 0.5)
        >>> [mask.tolist() for mask in masks]
        [[True, False], [[False, True]]]
    """
    joint = flat(values)
    count = max(1, int(share * len(joint)))
    mask = torch.zeros_like(joint, dtype=torch.bool)
    mask[joint.topk(count).indices] = True
    return shaped(mask, values)
