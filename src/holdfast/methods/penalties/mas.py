"""Memory aware synapses: importance from the outputs alone, without labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from holdfast.data import Batch, Table
from holdfast.errors import UsageError, at_least
from holdfast.evaluation import undisturbed
from holdfast.losses import quadratic_penalty
from holdfast.memory.known import inherited
from holdfast.memory.parameters import ParameterStore
from holdfast.method import ALL_KINDS, Method, Tags
from holdfast.optim.gradient_sums import GradientSums, drawn

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience


class MAS(Method):
    """Memory aware synapses: hold each weight as firmly as the outputs depend on it.

        Omega^t_i = mean over x in D_t of |d |f(x)|^2 / d theta_i|
        Omega <- Omega + Omega^t,   or mix Omega + (1 - mix) Omega^t
        loss = loss(B) + strength sum_i Omega_i (theta_i - theta*_i)^2

    with f(x) the logits: of its own task's classes where the task is known; of a language model
    those of a token, the mean over the tokens that an example asks for. theta* are the weights
    after the latest experience. Gradients are of single examples, in evaluation mode; no labels are
    looked at. A pre-trained model is held from the start, as by `EWC`.

    Args:
        strength: lambda, the weight of the penalty; 1 in the paper, whose networks are larger. The
            step is stable while learning rate times strength times the largest importance stays
            below about 1 (2 with momentum 0.9); small networks have larger importances.
        mix: Share of earlier experiences' importance in a running mix; None: their sum, as in the
            paper. Public code mixes by halves.
        examples: Examples of an experience used to estimate it; None: all, or 256 where the model
            itself makes them.

    Raises:
        UsageError: If a number is out of range.

    Source: Aljundi, Babiloni, Elhoseiny, Rohrbach and Tuytelaars, "Memory aware synapses: learning
    what (not) to forget" (2018).

    Example:
        >>> MAS(mix=0.5).strength
        0.1
    """

    tags = Tags(
        family="penalty",
        title="Memory aware synapses: learning what (not) to forget",
        source="Aljundi et al., 2018",
        scenarios=ALL_KINDS,
        needs=frozenset({"boundaries"}),
        keeps=frozenset({"parameters"}),
    )

    reads_outputs = False
    starts_plain = True

    def __init__(
        self, strength: float = 0.1, mix: float | None = None, examples: int | None = None
    ) -> None:
        super().__init__()
        at_least(0, strength=strength)
        at_least(1, examples=examples)
        if mix is not None and not 0 <= mix <= 1:
            raise UsageError(f"mix must be from 0 to 1, or None for a sum; given: {mix}.")
        self.strength, self.mix, self.examples = strength, mix, examples
        self.anchor, self.importance = ParameterStore(), ParameterStore()

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        if not self.importance:
            return loss
        anchor, importance = self.anchor.get(learner.named), self.importance.get(learner.named)
        return loss + 2 * self.strength * quadratic_penalty(learner.parameters, anchor, importance)

    def inherit(self, learner: Learner) -> None:
        past = inherited(learner, self.examples)
        if past is not None:
            self.hold(learner, past)

    def end(self, learner: Learner, experience: Experience) -> None:
        trained = learner.step or not self.importance  # what is not trained on was inherited
        if trained and not learner.last:
            self.hold(learner, experience.train)

    def hold(self, learner: Learner, table: Table, anew: bool = False) -> None:
        """Hold the weights as they are, as firmly as a table's outputs depend on them.

        Args:
            learner: Whose weights.
            table: Examples; labels are not asked for, so that it may be what the model is shown in
                use: `Table({"x": inputs})`.
            anew: Drop what was important before, and hold what matters for these examples alone.
        """
        new = sensitivity(learner, table, self.examples)
        if anew or not self.importance:
            total = new
        elif self.mix is None:
            total = list(torch._foreach_add(new, self.importance.get(learner.named)))
        else:
            old = self.importance.get(learner.named)
            total = list(torch._foreach_lerp(new, old, self.mix))
        self.importance.put(learner.named, total)
        self.anchor.put(learner.named)


def sensitivity(learner: Learner, table: Table, examples: int | None = None) -> list[Tensor]:
    """How fast the outputs' squared length changes with each weight: mean over single examples.

    Args:
        learner: Whose model and objective are used; the model is taken in evaluation mode.
        table: Examples, without augmentation.
        examples: At most this many, drawn at random; None: all.
    """
    table = drawn(learner, table, examples)
    sums = GradientSums(learner, learner.objective.squared_norms, torch.abs)
    with undisturbed(learner.model, device=learner.device):
        for batch in table.to(learner.device).chunks(sums.rows):
            sums.add(batch)
    return sums.over(len(table))
