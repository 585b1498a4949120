"""Fisher information: how much each parameter matters for what was learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from holdfast.data import Batch, Table, shortened, size
from holdfast.errors import UsageError
from holdfast.evaluation import undisturbed
from holdfast.optim.squared_gradients import squared_gradients

if TYPE_CHECKING:
    from holdfast.learner import Learner

Labels = Literal["sampled", "empirical", "all"]

FLOATS_AT_ONCE = {"cpu": 2**21, "cuda": 2**26}
"""Per-example gradients to hold at a time: what a processor's cache takes in, or enough to keep a
GPU busy. Larger models are taken eight examples at a time, as long as `FLOATS_AT_MOST` allows."""

FLOATS_AT_MOST = 2**26
"""Bound on the per-example gradients held at a time (256 MiB), one example apart."""


def fisher_diagonal(
    learner: Learner, table: Table, labels: Labels = "sampled", examples: int | None = None
) -> list[Tensor]:
    """Diagonal of the Fisher information, one tensor a trainable parameter.

    F_i = mean over examples x of E_y [(d log p(y|x) / d theta_i)^2], from one gradient an example
    (the square of a batch's mean gradient is something else, and not the Fisher).

    Args:
        learner: Whose model, objective and generator are used; the model is taken in evaluation
            mode.
        table: Examples, without augmentation.
        labels: `"sampled"`: one y an example, drawn from the model; `"empirical"`: y from the data
            (the empirical Fisher); `"all"`: the exact expectation over all classes, at as many
            times the cost.
        examples: At most this many, drawn at random; None: all.

    Raises:
        UsageError: If `labels` is none of these.

    Source: Kirkpatrick et al., "Overcoming catastrophic forgetting" (2017); Kunstner et al.,
    "Limitations of the empirical Fisher" (2019), for the difference between the kinds.
    """
    if labels not in get_args(Labels):
        raise UsageError(f"labels must be one of {', '.join(get_args(Labels))}; given: {labels!r}.")
    generator = learner.generator
    if examples is not None and examples < len(table):
        order = torch.randperm(len(table), generator=generator, device=generator.device)
        table = table.take(order[:examples].to(table.device))
    trained = {name: p.detach() for name, p in learner.model.named_parameters() if p.requires_grad}
    fixed = {name: p for name, p in learner.model.named_parameters() if not p.requires_grad}
    fixed.update(learner.model.named_buffers())

    def one_loss(parameters: dict[str, Tensor], example: Batch) -> Tensor:
        def model(*inputs: Any, **named: Any) -> Any:
            return functional_call(learner.model, {**parameters, **fixed}, inputs, named)

        batch = {name: column.unsqueeze(0) for name, column in example.items()}
        outputs = learner.objective.forward(model, batch)
        return learner.objective.losses(outputs, batch).squeeze(0)

    gradients = vmap(grad(one_loss), in_dims=(None, 0), randomness="error")
    total = {name: torch.zeros_like(p) for name, p in trained.items()}
    weights = max(1, sum(p.numel() for p in trained.values()))
    wanted = max(8, FLOATS_AT_ONCE.get(learner.device.type, 2**26) // weights)
    rows = max(1, min(256, wanted, FLOATS_AT_MOST // weights))

    def add(batch: Batch, weight: Tensor | None = None) -> None:
        if not learner.objective.vectorised:
            torch._foreach_add_(list(total.values()), _of_text(learner, batch))
            return
        for name, g in gradients(trained, batch).items():
            squared = g.square_()
            if weight is not None:
                squared *= weight.view(-1, *[1] * (g.dim() - 1))
            total[name] += squared.sum(0)

    with undisturbed(learner.model, device=learner.device):
        for batch in table.to(learner.device).chunks(rows):
            if labels == "empirical":
                add(batch)
                continue
            outputs = learner.objective.forward(learner.model, batch)
            if labels == "sampled":
                add(learner.objective.sampled(outputs, batch, generator))
                continue
            chances = learner.objective.probabilities(outputs, batch)
            for label in range(chances.shape[1]):
                y = torch.full_like(batch["y"], label)
                possible = chances[:, label] > 0
                if bool(possible.any()):
                    rows_kept = {name: column[possible] for name, column in batch.items()}
                    add({**rows_kept, "y": y[possible]}, chances[possible, label])
    return [total[name] / len(table) for name in trained]


def _of_text(learner: Learner, batch: Batch) -> list[Tensor]:
    """Sum of the squared gradients of each example's loss, in one pass where the model allows."""

    def losses() -> Tensor:
        return learner.objective.losses(learner.objective.forward(learner.model, batch), batch)

    squares = squared_gradients(learner.model, losses, size(batch))
    return _one_by_one(learner, batch) if squares is None else squares


def _one_by_one(learner: Learner, batch: Batch) -> list[Tensor]:
    """Sum of the squared gradients of each example's loss, without mapping over examples."""
    parameters = [p for p in learner.model.parameters() if p.requires_grad]
    squares = [torch.zeros_like(p) for p in parameters]
    for row in range(size(batch)):
        example = shortened({name: column[row : row + 1] for name, column in batch.items()})
        with torch.enable_grad():
            outputs = learner.objective.forward(learner.model, example)
            loss = learner.objective.losses(outputs, example).sum()
        found = torch.autograd.grad(loss, parameters, materialize_grads=True)
        torch._foreach_addcmul_(squares, found, found)
    return squares
