"""A step that is only imagined: the weights it would lead to, and what they would do.

The model is not copied and not changed. Weights are put in its place for single passes
(`torch.func.functional_call`), and whatever such a pass would write into buffers (the running
statistics of batch normalisation) goes to copies or is not written at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call

from holdfast.data import Batch
from holdfast.evaluation import in_passing

if TYPE_CHECKING:
    from holdfast.learner import Learner


def virtual_gradient(
    learner: Learner, batch: Batch, weights: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """The gradient of a batch's loss in a training pass that leaves no trace in the model.

    Augmentation, dropout and the batch's own statistics included, as those of the real step will
    be; of several processes, every one passes the whole batch.

    Args:
        learner: Whose model and objective are used.
        batch: As the stream brings it.
        weights: Where the gradient is taken, one tensor for each of `learner.parameters`; None: at
            the model's own.

    Returns:
        One tensor for each of `learner.parameters`.
    """
    stead = {name: held.clone() for name, held in learner.model.named_buffers()}
    at: Sequence[Tensor] = learner.parameters
    if weights is not None:
        at = [weight.detach().requires_grad_() for weight in weights]
        stead.update(zip((name for name, _ in learner.named), at, strict=True))

    def model(*inputs: Any, **named: Any) -> Any:
        return functional_call(learner.model, stead, inputs, named)

    batch = learner.augmented(batch)
    with torch.enable_grad():
        loss = learner.objective.loss(learner.objective.forward(model, batch), batch)
    return list(torch.autograd.grad(loss, list(at), materialize_grads=True))


def virtual_step(learner: Learner, batch: Batch) -> dict[str, Tensor]:
    """The weights after one plain gradient step on a batch: theta - lr * gradient of its loss.

    The gradient is the virtual one.

    Args:
        learner: Whose trained weights, objective and present learning rates are used, whatever else
            its optimizer does.
        batch: As the stream brings it.

    Returns:
        By name, the value of every parameter that the optimizer steps.
    """
    found = virtual_gradient(learner, batch)
    gradients = {id(p): g for p, g in zip(learner.parameters, found, strict=True)}
    names = {id(p): name for name, p in learner.named}
    weights: dict[str, Tensor] = {}
    for group in learner.optimizer.param_groups:
        stepping = [p.detach() for p in group["params"]]
        along = [gradients[id(p)] for p in group["params"]]
        moved = torch._foreach_add(stepping, along, alpha=-float(group["lr"]))
        weights.update(zip((names[id(p)] for p in group["params"]), moved, strict=True))
    return weights


def loss_increase(
    learner: Learner, weights: dict[str, Tensor], batch: Batch
) -> Float[Tensor, " examples"]:
    """By how much other weights raise each example's loss.

    In evaluation mode, without augmentation: an example's loss then depends neither on its
    neighbours nor on two draws of dropout, and running statistics stay as they are.

    Args:
        learner: Whose model and objective are used.
        weights: By name, as `virtual_step` answers; what is not named stays.
        batch: The examples.
    """
    objective = learner.objective

    def moved(*inputs: Any, **named: Any) -> Any:
        return functional_call(learner.model, weights, inputs, named)

    with in_passing(learner.model):
        before = objective.losses(objective.forward(learner.model, batch), batch)
        return objective.losses(objective.forward(moved, batch), batch) - before
