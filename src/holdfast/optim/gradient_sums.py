"""Sums over examples of each one's own gradient, squared or in size.

What a batch's gradient hides: gradients of single examples cancel in it, and its square is not the
sum of their squares. Where all trained layers tell by their uses what each example's gradient is,
one pass over a batch is enough; elsewhere each example's gradient is taken by itself, many at a
time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, grad, vmap

from holdfast.data import Batch, Table, shortened, size
from holdfast.optim.layer_uses import trained_layers
from holdfast.optim.squared_gradients import known, squared_gradients

if TYPE_CHECKING:
    from holdfast.learner import Learner

FLOATS_AT_ONCE = {"cpu": 2**21, "cuda": 2**26}
"""Per-example gradients to hold at a time: what a processor's cache takes in, or enough to keep a
GPU busy. Larger models are taken eight examples at a time, as long as `FLOATS_AT_MOST` allows."""

ROWS = 1024
"""Examples in one pass, where no gradients of single examples are formed."""

FLOATS_AT_MOST = 2**26
"""Bound on the per-example gradients held at a time (256 MiB), one example apart."""

Number = Callable[[Tensor, Batch], Float[Tensor, " examples"]]
"""From outputs and their batch to one number an example."""


class GradientSums:
    """Sums, over examples, of a measure of the gradient of one number an example.

    Use it within `evaluation.undisturbed`: examples must not act on one another, as they do in
    batch normalisation while it trains.

    Args:
        learner: Whose model and objective are used.
        number: Whose gradient is taken, such as `objective.losses`.
        measure: Of a gradient, entry by entry: `torch.square` or `torch.abs`.

    Attributes:
        rows: Of a batch that `add` takes in at best.
    """

    def __init__(
        self, learner: Learner, number: Number, measure: Callable[[Tensor], Tensor]
    ) -> None:
        self.learner, self.number, self.measure = learner, number, measure
        named = list(learner.model.named_parameters())
        self.trained = {name: p.detach() for name, p in named if p.requires_grad}
        self.fixed: dict[str, Tensor] = {name: p for name, p in named if not p.requires_grad}
        self.fixed.update(learner.model.named_buffers())
        self.sums = {name: torch.zeros_like(p) for name, p in self.trained.items()}
        self.gradients = vmap(grad(self._one), in_dims=(None, 0), randomness="error")
        weights = max(1, sum(p.numel() for p in self.trained.values()))
        wanted = max(8, FLOATS_AT_ONCE.get(learner.device.type, 2**26) // weights)
        self.apart = max(1, min(256, wanted, FLOATS_AT_MOST // weights))
        self.mapped = learner.objective.vectorised
        self.in_one_pass = all(map(known, trained_layers(learner.model)))
        self.rows = ROWS if self.mapped and self.in_one_pass else self.apart

    def add(self, batch: Batch, weight: Float[Tensor, " examples"] | None = None) -> None:
        """Add a batch's examples, each times its weight."""
        if self.in_one_pass or not self.mapped:
            model, measure = self.learner.model, self.measure
            found = squared_gradients(
                model, lambda: self._numbers(batch), size(batch), measure, weight
            )
            if found is None and not self.mapped:
                found = self._one_by_one(batch, weight)
            if found is not None:
                torch._foreach_add_(list(self.sums.values()), found)
                return
            self.in_one_pass = False
        for start in range(0, size(batch), self.apart):
            rows = slice(start, start + self.apart)
            some = {name: column[rows] for name, column in batch.items()}
            self._map(some, None if weight is None else weight[rows])

    def _map(self, batch: Batch, weight: Tensor | None) -> None:
        """Add examples by the gradient of each."""
        for name, g in self.gradients(self.trained, batch).items():
            measured = self.measure(g)
            if weight is not None:
                measured *= weight.view(-1, *[1] * (g.dim() - 1))
            self.sums[name] += measured.sum(0)

    def over(self, count: int) -> list[Tensor]:
        """The sums over a number of examples, one tensor a trainable parameter."""
        return [total / count for total in self.sums.values()]

    def _one(self, parameters: dict[str, Tensor], example: Batch) -> Tensor:
        def model(*inputs: Any, **named: Any) -> Any:
            everything = {**parameters, **self.fixed}
            return functional_call(self.learner.model, everything, inputs, named)

        batch = {name: column.unsqueeze(0) for name, column in example.items()}
        return self.number(self.learner.objective.forward(model, batch), batch).squeeze(0)

    def _numbers(self, batch: Batch) -> Tensor:
        return self.number(self.learner.objective.forward(self.learner.model, batch), batch)

    def _one_by_one(self, batch: Batch, weight: Tensor | None) -> list[Tensor]:
        """Without mapping over examples."""
        parameters = [p for p in self.learner.model.parameters() if p.requires_grad]
        sums = [torch.zeros_like(p) for p in parameters]
        for row in range(size(batch)):
            example = shortened({name: column[row : row + 1] for name, column in batch.items()})
            with torch.enable_grad():
                number = self._numbers(example).sum()
            found = torch.autograd.grad(number, parameters, materialize_grads=True)
            counts = 1.0 if weight is None else weight[row]
            torch._foreach_add_(sums, [self.measure(g) * counts for g in found])
        return sums


def drawn(learner: Learner, table: Table, examples: int | None) -> Table:
    """At most so many of a table's examples, drawn by the learner's generator; None: all."""
    if examples is None or examples >= len(table):
        return table
    generator = learner.generator
    order = torch.randperm(len(table), generator=generator, device=generator.device)
    return table.take(order[:examples].to(table.device))
