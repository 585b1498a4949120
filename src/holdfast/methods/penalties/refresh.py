"""Refresh learning: unlearn the batch a little, then learn it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from holdfast.data import Batch
from holdfast.errors import UsageError, above_zero, at_least
from holdfast.memory.parameters import ParameterStore
from holdfast.method import Method, Tags
from holdfast.optim.fisher import fisher_diagonal
from holdfast.optim.gradients import shaped
from holdfast.optim.virtual_step import virtual_gradient

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience

TINY = 1e-20
"""Keeps a tensor whose gradient is zero where it is."""


class Refresh(Method):
    """Refresh learning: before every update unlearn its batch a little, then learn it.

    A plug-in: it adds no term, and what follows is the step of whatever it is chained with, on the
    same batch B, at the moved weights. F is a diagonal Fisher information, zero at first, and every
    line but the last is said of each tensor of weights by itself:

        theta' = theta + rate * gradient of mean loss(B; theta)              `steps` times
        u = |theta| / |theta' - theta| (theta' - theta)
        theta <- theta + delta (u + noise xi) / (1 + caution F),   xi ~ N(0, I)
        F <- decay F + 1/N sum_i p(y_i|x_i) (gradient of log p(y_i|x_i))^2    at an experience's end

    u is as long as the weights, whatever the gradient's size, so that delta is the share of its
    length by which a tensor moves; weights that matter for earlier experiences are unlearned less.
    The authors' analysis: refreshing descends the loss plus a multiple of its gradient's squared
    length, measured by the inverse of F, and so seeks flat places.

    The ascent is made in thought: running statistics of normalisation are those of real steps
    alone. Where gradients are accumulated, every pass unlearns its own rows before it. Only what
    the stream brings is unlearned, never what other methods replay. Noise has draws of its own, by
    the learner's seed: the data come in the same order as without refreshing.

    Args:
        delta: Share of its length that a tensor moves before every update.
        steps: J, ascent steps made in thought.
        rate: Of an ascent step. With one step it drops out, as only the direction counts.
        caution: c, how much less important weights move.
        noise: Deviation of the noise, in units of the weights themselves.
        decay: tau, share of earlier experiences' Fisher information that stays.
        weighted: Whether an example weighs p(y|x) in it; if not, it is the empirical one.
        rescale: Whether u has the weights' length; if not, it is theta' - theta itself, and delta
            a factor on that.
        examples: Examples of an experience from which it is estimated; None: all.

    Raises:
        UsageError: If a number is out of range, or if it is chained with a method that keeps some
            weights where they are, which it would move.

    Differs from the paper: the authors' text adds the gradient times the inverse of F and noise by
    its root; their code, and this, has the lines above. Their code takes the gradients of single
    examples in training mode, where batch normalisation makes of one example's features its own
    mean; these are taken in evaluation mode. Augmented images are drawn anew for the ascent.

    Source: Wang, Li, Shao and Huang, "A unified and general framework for continual learning"
    (2024).

    Example:
        >>> from holdfast.methods import ER
        >>> from holdfast.method import chain
        >>> [type(part).__name__ for part in chain(ER(capacity=200), Refresh()).parts()]
        ['ER', 'Refresh']
    """

    tags = Tags(
        family="penalty",
        title="A unified and general framework for continual learning",
        source="Wang et al., 2024",
        needs=frozenset({"boundaries", "labels"}),
        keeps=frozenset({"parameters"}),
    )
    remembers = ("refreshed",)

    def __init__(
        self,
        delta: float = 1e-5,
        steps: int = 1,
        rate: float = 0.01,
        caution: float = 1e-3,
        noise: float = 1e-3,
        decay: float = 1e-5,
        weighted: bool = True,
        rescale: bool = True,
        examples: int | None = None,
    ) -> None:
        super().__init__()
        at_least(1, steps=steps, examples=examples)
        at_least(0, delta=delta, caution=caution, noise=noise, decay=decay)
        above_zero(rate=rate)
        self.delta, self.steps, self.rate = delta, steps, rate
        self.caution, self.noise, self.decay = caution, noise, decay
        self.weighted, self.rescale, self.examples = weighted, rescale, examples
        self.fisher = ParameterStore()
        self.refreshed = 0  # how often

    def setup(self, learner: Learner) -> None:
        for part in learner.method.parts():
            if part.tags.family in ("isolation", "sparse"):
                raise UsageError(
                    f"Refresh moves every trained weight before a step, and {type(part).__name__} "
                    "keeps some where they are: they cannot be chained."
                )

    def batch(self, learner: Learner, batch: Batch) -> Batch:
        self.refresh(learner, learner.incoming)
        return batch

    @torch.no_grad()
    def refresh(self, learner: Learner, batch: Batch) -> None:
        """Move the weights a little up the loss of a batch."""
        weights = [parameter.detach() for parameter in learner.parameters]
        move = self.unlearned(learner, batch, weights)
        if self.noise:
            draw = torch.Generator(learner.device)
            draw.manual_seed(1_000_003 * self.refreshed + learner.seed)
            torch._foreach_add_(move, noise_like(weights, draw), alpha=self.noise)
        if self.fisher and self.caution:
            held = torch._foreach_mul(self.fisher.get(learner.named), self.caution)
            torch._foreach_add_(held, 1.0)
            torch._foreach_div_(move, held)
        torch._foreach_add_(weights, move, alpha=self.delta)
        self.refreshed += 1

    def unlearned(self, learner: Learner, batch: Batch, weights: list[Tensor]) -> list[Tensor]:
        """u: the way up the loss of a batch."""
        there = torch._foreach_mul(weights, 0.0)
        for _ in range(self.steps):
            with learner.autocast():
                up = virtual_gradient(learner, batch, torch._foreach_add(weights, there))
            learner.ranks.average(up)  # with dropout, each process has its own
            torch._foreach_add_(there, up, alpha=self.rate)
        if self.rescale:
            lengths = torch._foreach_add(torch._foreach_norm(there), TINY)
            torch._foreach_mul_(there, torch._foreach_div(torch._foreach_norm(weights), lengths))
        return list(there)

    def end(self, learner: Learner, experience: Experience) -> None:
        if learner.last or not learner.step:
            return
        new = fisher_diagonal(
            learner, experience.train, "empirical", self.examples, weighted=self.weighted
        )
        old = torch._foreach_mul(self.fisher.get(learner.named), self.decay)
        self.fisher.put(learner.named, torch._foreach_add(old, new))


def noise_like(tensors: list[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Standard normal noise in the shapes of tensors, in one draw."""
    count = sum(tensor.numel() for tensor in tensors)
    return shaped(torch.randn(count, generator=generator, device=generator.device), tensors)
