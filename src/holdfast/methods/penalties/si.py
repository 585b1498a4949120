"""Synaptic intelligence: importance from the path that training took."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from holdfast.errors import above_zero, at_least
from holdfast.memory.parameters import ParameterStore
from holdfast.method import ALL_KINDS, Method, Tags
from holdfast.optim.descent import Descent, pull

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience


class SI(Method):
    """Synaptic intelligence: hold each weight by what it did for the loss on its way.

        omega_i <- omega_i - g_i (theta_i(t + 1) - theta_i(t))             every update
        Omega_i <- max(0, Omega_i + omega_i / ((theta_i - theta*_i)^2 + xi))     at the end
        loss = loss(B) + strength sum_i Omega_i (theta_i - theta*_i)^2

    with theta* the weights when the experience began, and omega starting at zero there. g is the
    gradient of everything but this penalty: replayed examples and the terms of other methods belong
    to the task. So the penalty is added to the gradient, after the backward pass; the losses that
    training shows are the task's. Methods that change gradients (`agem`) come after it in a chain.

    Args:
        strength: c, the weight of the penalty; 0.1 (permuted MNIST) and 1 (split MNIST) in the
            paper.
        xi: Bounds the importance of weights that hardly moved.
        max_importance: Larger importances count as this; None: as they are.

    Raises:
        UsageError: If a number is out of range.

    Differs from the paper: importances are kept from falling below 0, as in its code. Importances
    of the parameters that a growing head has gained begin at 0.

    Source: Zenke, Poole and Ganguli, "Continual learning through synaptic intelligence" (2017).

    Example:
        >>> SI(strength=0.1).xi
        0.1
    """

    tags = Tags(
        family="penalty",
        title="Continual learning through synaptic intelligence",
        source="Zenke et al., 2017",
        scenarios=ALL_KINDS,
        needs=frozenset({"boundaries"}),
        keeps=frozenset({"parameters"}),
    )

    def __init__(
        self, strength: float = 1.0, xi: float = 0.1, max_importance: float | None = None
    ) -> None:
        super().__init__()
        at_least(0, strength=strength)
        above_zero(xi=xi, max_importance=max_importance)
        self.strength, self.xi, self.max_importance = strength, xi, max_importance
        self.anchor, self.importance = ParameterStore(), ParameterStore()
        self.path = ParameterStore()
        self._update: Descent | None = None

    def begin(self, learner: Learner, experience: Experience) -> None:
        self.anchor.put(learner.named)

    def gradients(self, learner: Learner) -> None:
        if not learner.last:  # importance for what never comes is not asked for
            self._update = Descent(learner.parameters)
        if self.importance:
            anchor, importance = self.anchor.get(learner.named), self.importance.get(learner.named)
            pull(learner.parameters, anchor, importance, 2 * self.strength)

    def step(self, learner: Learner) -> None:
        if self._update is not None:
            self._update.add_to(self.path.get(learner.named))
            self._update = None

    def end(self, learner: Learner, experience: Experience) -> None:
        if learner.last:
            return
        path = self.path.get(learner.named)
        here = [parameter.detach() for parameter in learner.parameters]
        moved = torch._foreach_sub(here, self.anchor.get(learner.named))
        bound = torch._foreach_add(torch._foreach_mul(moved, moved), self.xi)
        total = torch._foreach_add(
            self.importance.get(learner.named), torch._foreach_div(path, bound)
        )
        total = torch._foreach_clamp_min(total, 0.0)
        if self.max_importance is not None:
            total = torch._foreach_clamp_max(total, self.max_importance)
        self.importance.put(learner.named, total)
        torch._foreach_zero_(path)
