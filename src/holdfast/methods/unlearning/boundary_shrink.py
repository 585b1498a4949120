"""Boundary unlearning by a shrunk boundary: examples go to their nearest class."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.data import Batch, Table
from holdfast.errors import UsageError
from holdfast.evaluation import undisturbed
from holdfast.method import Method, Tags
from holdfast.models.snapshot import Snapshot

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience

ROWS = 256
"""Examples a pass of the search for the nearest class."""


class BoundaryShrink(Method):
    """Boundary shrinking (BS): the forget set is trained to be what lies across the boundary.

        x' = clip(x + bound sign(grad of CE(f_0(x), y) by x)),   y' = argmax f_0(x')
        loss = CE(f(x), y') over the forget set

    with f_0 a frozen copy of the original model. As f_0 does not change, y' is found once.

    Args:
        bound: Length of the step, as a share of the inputs' range.

    Raises:
        UsageError: If `bound` is not above 0.

    Differs from the paper: the range of the inputs, to which x' is clipped, is what occurs in the
    forget and retain sets (0 to 1 there); bytes stay whole numbers. Inputs are searched as they
    come, not as they are augmented.
    """

    tags = Tags(
        family="unlearning",
        title="Boundary unlearning: Rapid forgetting of deep networks via shifting the decision "
        "boundary",
        source="Chen et al., 2023",
        scenarios=frozenset({"class", "domain"}),
        needs=frozenset({"boundaries", "labels"}),
        keeps=frozenset({"model"}),
    )

    def __init__(self, bound: float = 0.1) -> None:
        super().__init__()
        if not bound > 0:
            raise UsageError(f"bound must be above 0; given: {bound}.")
        self.bound = bound

    def setup(self, learner: Learner) -> None:
        self.original = Snapshot(lambda: learner.model)

    def begin(self, learner: Learner, experience: Experience) -> None:
        self.original.take()

    def select(self, learner: Learner, table: Table) -> Table:
        assert self.original.model is not None
        sets = [learner.experience.train, *learner.experience.sets.values()]
        low = min(float(each["x"].min()) for each in sets)
        high = max(float(each["x"].max()) for each in sets)
        forward = learner.objective.forward
        model = self.original.model
        with undisturbed(model, device=learner.device):
            found = [
                across(lambda x: forward(model, {"x": x}), batch, self.bound, low, high)
                for batch in table.to(learner.device).chunks(ROWS)
            ]
        return table.with_columns(y=torch.cat(found).to(table.device))


def across(
    model: Callable[[Tensor], Tensor] | nn.Module,
    batch: Batch,
    bound: float,
    low: float,
    high: float,
) -> Tensor:
    """The class that a model sees one step of the fast gradient sign method away.

    Args:
        model: From inputs to logits.
        batch: Columns `x` and `y`.
        bound: Length of the step, as a share of `high - low`.
        low: Smallest input.
        high: Largest.

    Source: Goodfellow et al., "Explaining and harnessing adversarial examples" (2015).
    """
    raw = batch["x"]
    x = (raw if raw.is_floating_point() else raw.float()).detach().clone().requires_grad_()
    with torch.enable_grad():
        loss = F.cross_entropy(model(x), batch["y"], reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
    moved = (x.detach() + bound * (high - low) * gradient.sign()).clamp(low, high)
    if not raw.is_floating_point():
        moved = moved.round()
    with torch.no_grad():
        return model(moved).argmax(1)
