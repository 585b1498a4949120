"""Lower levels of the search: how a model unlearns a weighted choice of examples.

Every one minimises a sum over examples in which the weight w_i in [0, 1] says how much example i is
to be forgotten, and 1 - w_i how much it is to be kept. All are descended by the sign of the
gradient (signSGD): unrolled sign steps have no derivative in w almost everywhere, so that the
upper level's gradient is the per-example loss and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.data import Batch, Table
from holdfast.errors import UsageError, at_least
from holdfast.losses import softened_divergence
from holdfast.models.heads import GrowingHead
from holdfast.models.layers import reinitialise
from holdfast.objective import Objective
from holdfast.spec import bind, parse_one
from holdfast.unlearning.boundary import nearest_classes
from holdfast.unlearning.last import LastLayers


@dataclass(frozen=True)
class Problem:
    """What is unlearned from.

    Attributes:
        original: The model before, which nothing changes.
        table: All examples.
        objective: Gives outputs and per-example losses.
        generator: Draws the order of examples and random labels.
        epochs: Passes over all examples.
        batch_size: Examples a step.
        rate: Of signSGD: the length of each weight's step.
    """

    original: nn.Module
    table: Table
    objective: Objective
    generator: torch.Generator
    epochs: int = 1
    batch_size: int = 256
    rate: float = 1e-3


class Finetune:
    """Relearning what remains: min over theta of sum_i (1 - w_i) loss_i, from the original."""

    labelled = False

    def model(self, problem: Problem) -> nn.Module:
        """A fresh copy to be trained: never the one that the last iteration left."""
        return deepcopy(problem.original)

    def begin(self, problem: Problem, model: nn.Module, weights: Tensor) -> None:
        """Once before the first step."""

    def loss(
        self, problem: Problem, model: nn.Module, batch: Batch, weights: Tensor, epoch: int
    ) -> Tensor:
        """The weighted sum that a step descends."""
        outputs = problem.objective.forward(model, batch)
        return ((1 - weights) * problem.objective.losses(outputs, batch)).sum()


class L1(Finetune):
    """Relearning with a fading l1 penalty: `finetune` + alpha (1 - t / T) |theta|_1."""

    def __init__(self, alpha: float = 1e-3) -> None:
        self.alpha = alpha

    def loss(
        self, problem: Problem, model: nn.Module, batch: Batch, weights: Tensor, epoch: int
    ) -> Tensor:
        alpha = self.alpha * (1 - epoch / problem.epochs)
        values: list[Tensor] = list(model.parameters())
        penalty = torch.stack(torch._foreach_norm(values, 1)).sum()
        return super().loss(problem, model, batch, weights, epoch) + alpha * penalty


class Retrain(Finetune):
    """Learning what remains from Xavier weights instead of the original ones."""

    def model(self, problem: Problem) -> nn.Module:
        fresh = super().model(problem)
        reinitialise(fresh, xavier=True)
        return fresh


class EU(Finetune):
    """Learning what remains in the last k layers, drawn anew; the others are frozen."""

    def __init__(self, k: int = 1) -> None:
        at_least(1, k=k)
        self.last = LastLayers(k)

    def model(self, problem: Problem) -> nn.Module:
        fresh = super().model(problem)
        self.last = LastLayers(self.last.k)
        self.last.freeze_others(fresh)
        reinitialise(*self.last.layers, xavier=True)
        return fresh

    def loss(
        self, problem: Problem, model: nn.Module, batch: Batch, weights: Tensor, epoch: int
    ) -> Tensor:
        self.last.hold_norms()
        return super().loss(problem, model, batch, weights, epoch)


class RandomLabels(Finetune):
    """sum_i (1 - w_i) CE(f(x_i), y_i) + w_i CE(f(x_i), uniform label drawn in every epoch)."""

    labelled = True

    def loss(
        self, problem: Problem, model: nn.Module, batch: Batch, weights: Tensor, epoch: int
    ) -> Tensor:
        outputs = problem.objective.forward(model, batch)
        drawn = torch.randint(
            outputs.shape[1],
            batch["y"].shape,
            generator=problem.generator,
            device=outputs.device,
        )
        wrong = F.cross_entropy(outputs, drawn, reduction="none")
        kept = problem.objective.losses(outputs, batch)
        return ((1 - weights) * kept + weights * wrong).sum()


class SCRUB(Finetune):
    """Max passes - sum_i w_i KL_i, then min passes sum_i (1 - w_i)(gamma CE_i + alpha KL_i)."""

    labelled = True

    def __init__(
        self,
        max_steps: int = 1,
        gamma: float = 0.99,
        alpha: float = 0.001,
        temperature: float = 4.0,
    ) -> None:
        self.max_steps, self.gamma, self.alpha = max_steps, gamma, alpha
        self.temperature = temperature

    def begin(self, problem: Problem, model: nn.Module, weights: Tensor) -> None:
        problem.original.eval()

    def loss(
        self, problem: Problem, model: nn.Module, batch: Batch, weights: Tensor, epoch: int
    ) -> Tensor:
        outputs = problem.objective.forward(model, batch)
        with torch.no_grad():
            taught = problem.objective.forward(problem.original, batch)
        apart = softened_divergence(outputs, taught, self.temperature)
        if epoch < self.max_steps:
            return -(weights * apart).sum()
        kept = self.gamma * problem.objective.losses(outputs, batch) + self.alpha * apart
        return ((1 - weights) * kept).sum()


class BoundaryShrink(Finetune):
    """sum_i w_i CE(f(x_i), class across the boundary of the original model)."""

    labelled = True

    def __init__(self, bound: float = 0.1) -> None:
        self.bound = bound
        self.found: Tensor | None = None

    def begin(self, problem: Problem, model: nn.Module, weights: Tensor) -> None:
        if self.found is None:  # the original stays, and so do the classes
            x = problem.table["x"]
            low, high = float(x.min()), float(x.max())
            self.found = nearest_classes(problem.original, problem.table, self.bound, low, high)

    def loss(
        self, problem: Problem, model: nn.Module, batch: Batch, weights: Tensor, epoch: int
    ) -> Tensor:
        assert self.found is not None
        outputs = problem.objective.forward(model, batch)
        moved = F.cross_entropy(outputs, self.found[batch[ROW]], reduction="none")
        return (weights * moved).sum()


class BoundaryExpand(Finetune):
    """sum_i w_i CE(f'(x_i), C + 1), f' with one more output, which is not looked at afterwards."""

    labelled = True

    def model(self, problem: Problem) -> nn.Module:
        fresh = super().model(problem)
        head = getattr(fresh, "head", None)
        if isinstance(head, nn.Linear):
            fresh.head = GrowingHead.of(head)
        elif not isinstance(head, GrowingHead):
            raise UsageError(
                "The lower level boundary_expand adds an output to a linear head; the head of "
                f"{type(fresh).__name__} is a {type(head).__name__}."
            )
        fresh.head.grow(fresh.head.classes + 1)  # type: ignore[union-attr, operator]
        return fresh

    def loss(
        self, problem: Problem, model: nn.Module, batch: Batch, weights: Tensor, epoch: int
    ) -> Tensor:
        outputs = problem.objective.forward(model, batch)
        shadow = torch.full_like(batch["y"], outputs.shape[1] - 1)
        return (weights * F.cross_entropy(outputs, shadow, reduction="none")).sum()


ROW = "row"
"""The column that tells every example's place in the table."""

LOWER: dict[str, Callable[..., Finetune]] = {
    "finetune": Finetune,
    "l1": L1,
    "retrain": Retrain,
    "eu": EU,
    "random_labels": RandomLabels,
    "scrub": SCRUB,
    "boundary_shrink": BoundaryShrink,
    "boundary_expand": BoundaryExpand,
}
"""Lower levels by name."""


def build(text: str) -> Finetune:
    """A lower level from a spec string, such as `l1(alpha=0.01)`.

    Raises:
        UsageError: If there is none of that name, or an argument does not exist.
    """
    spec = parse_one(text)
    if spec.name not in LOWER:
        from holdfast.errors import unknown

        raise unknown("lower level", spec.name, LOWER)
    make = LOWER[spec.name]
    arguments: dict[str, Any] = bind(spec, make, "lower level")
    return make(**arguments)


def solve(level: Finetune, problem: Problem, weights: Float[Tensor, " examples"]) -> nn.Module:
    """The model after unlearning with these weights: always from the original, by sign steps."""
    model = level.model(problem)
    table = problem.table
    level.begin(problem, model, weights)
    model.train()
    parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
    device = problem.generator.device
    for epoch in range(problem.epochs):
        order = torch.randperm(len(table), generator=problem.generator, device=device)
        for chosen in order.to(table.device).split(problem.batch_size):
            batch = {**table[chosen], ROW: chosen}
            loss = level.loss(problem, model, batch, weights[chosen], epoch)
            found = torch.autograd.grad(loss, parameters, materialize_grads=True)
            with torch.no_grad():
                torch._foreach_add_(parameters, torch._foreach_sign(found), alpha=-problem.rate)
    return model.eval()
