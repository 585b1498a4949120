"""Riemannian walk: importance from where training ended, and from the path that it took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from holdfast.errors import UsageError, above_zero, at_least
from holdfast.memory.parameters import ParameterStore
from holdfast.method import ALL_KINDS, Method, Tags
from holdfast.optim.descent import Descent, pull

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience


class RWalk(Method):
    """Riemannian walk: EWC++ and a path integral in the distance of distributions.

        F_i <- alpha g_i^2 + (1 - alpha) F_i                               every update (EWC++)
        s_i <- s_i + sum -g_i (theta_i(t + 1) - theta_i(t))
                     / (F_i (theta_i(t) - theta_i(t - interval))^2 / 2 + damping)
                                                                          every `interval` updates
        S_i <- max(0, s_i) after the first experience, (S_i + max(0, s_i)) / 2 after later ones
        loss = loss(B) + strength sum_i (F_i / max F + S_i / max S) (theta_i - theta*_i)^2

    with F and S as the previous experience left them, theta* the weights then, and s starting at
    zero in every experience. The sum runs over the interval; its denominator is the KL divergence
    between the predictions of its two ends, to second order. g is the gradient of everything but
    this penalty, which is added to the gradient after the backward pass: the losses that training
    shows are the task's. Methods that change gradients (`agem`) come after it in a chain.

    F squares the gradient of a batch's mean loss, as the paper does: the Fisher information of
    single examples (see `ewc`) is larger, by about the size of the batch where examples disagree.
    Only its proportions count here.

    Args:
        strength: lambda, the weight of the penalty.
        alpha: Weight of the newest batch in F, above 0, to 1. With 0.9 about one batch counts.
        interval: Updates between two looks at the distance.
        damping: Bounds the score of weights that hardly changed the predictions; as a divergence,
            in nats.

    Raises:
        UsageError: If a number is out of range.

    Differs from the paper: F in a score's denominator is that of the interval's end, so that no
    second one is kept. An interval that the end of an experience cuts short counts as it is. The
    paper's code scores and averages as follows: F is renewed once an interval, from the mean of its
    batches' squares; negative parts of s are dropped in every interval; S becomes
    S + (S + s) / 2; and the divergence lacks its 1/2.

    Source: Chaudhry, Dokania, Ajanthan and Torr, "Riemannian walk for incremental learning" (2018).

    Example:
        >>> RWalk(interval=5).alpha
        0.9
    """

    tags = Tags(
        family="penalty",
        title=(
            "Riemannian walk for incremental learning: understanding forgetting and intransigence"
        ),
        source="Chaudhry et al., 2018",
        scenarios=ALL_KINDS,
        needs=frozenset({"boundaries"}),
        keeps=frozenset({"parameters"}),
    )

    def __init__(
        self,
        strength: float = 0.1,
        alpha: float = 0.9,
        interval: int = 10,
        damping: float = 1e-3,
    ) -> None:
        super().__init__()
        at_least(0, strength=strength)
        at_least(1, interval=interval)
        if not 0 < alpha <= 1:
            raise UsageError(f"alpha must be above 0 and at most 1; given: {alpha}.")
        above_zero(damping=damping)
        self.strength, self.alpha = strength, alpha
        self.interval, self.damping = interval, damping
        self.anchor, self.importance = ParameterStore(), ParameterStore()
        self.fisher, self.scores = ParameterStore(), ParameterStore()
        self.start, self.descent = ParameterStore(), ParameterStore()  # of the interval
        self.path = ParameterStore()  # scores of the experience at hand
        self._update: Descent | None = None

    def begin(self, learner: Learner, experience: Experience) -> None:
        self.start.put(learner.named)

    def gradients(self, learner: Learner) -> None:
        if not learner.last:  # importance for what never comes is not asked for
            self._update = Descent(learner.parameters)
            self._renew_fisher(learner, self._update)
        if self.importance:
            anchor, importance = self.anchor.get(learner.named), self.importance.get(learner.named)
            pull(learner.parameters, anchor, importance, 2 * self.strength)

    def step(self, learner: Learner) -> None:
        if self._update is None:
            return
        self._update.add_to(self.descent.get(learner.named))
        self._update = None
        if (learner.step + 1) % self.interval == 0:
            self._score(learner)

    def end(self, learner: Learner, experience: Experience) -> None:
        if learner.last:
            return
        self._score(learner)
        path = self.path.get(learner.named)
        new = torch._foreach_clamp_min(path, 0.0)
        if self.scores:
            new = torch._foreach_lerp(self.scores.get(learner.named), new, 0.5)
        self.scores.put(learner.named, new)
        fisher = self.fisher.get(learner.named)
        self.importance.put(
            learner.named, torch._foreach_add(_by_largest(fisher), _by_largest(new))
        )
        self.anchor.put(learner.named)
        torch._foreach_zero_(path)

    def _renew_fisher(self, learner: Learner, update: Descent) -> None:
        """EWC++; the first batch of all is taken whole."""
        share = self.alpha if learner.updates else 1.0
        fisher = update.moving(self.fisher.get(learner.named))
        torch._foreach_mul_(fisher, 1 - share)
        torch._foreach_addcmul_(fisher, update.gradients, update.gradients, value=share)

    def _score(self, learner: Learner) -> None:
        """Score the interval that ends here, and begin the next."""
        descent, start = self.descent.get(learner.named), self.start.get(learner.named)
        here = [parameter.detach() for parameter in learner.parameters]
        distance = torch._foreach_sub(here, start)
        torch._foreach_mul_(distance, distance)
        torch._foreach_mul_(distance, self.fisher.get(learner.named))
        torch._foreach_mul_(distance, 0.5)
        torch._foreach_add_(distance, self.damping)
        torch._foreach_addcdiv_(self.path.get(learner.named), descent, distance)
        torch._foreach_zero_(descent)
        torch._foreach_copy_(start, here)


def _by_largest(tensors: Sequence[Tensor]) -> list[Tensor]:
    """All entries by the largest of all tensors, none of them negative; zeros stay zeros."""
    sizes = [tensor.max() for tensor in tensors if tensor.numel()]
    largest = torch.stack(sizes).max()
    return [torch.where(largest > 0, tensor / largest, 0.0) for tensor in tensors]
