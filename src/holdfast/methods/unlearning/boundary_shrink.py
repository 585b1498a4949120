"""Boundary unlearning by a shrunk boundary: examples go to their nearest class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.data import Table
from holdfast.errors import above_zero
from holdfast.method import Method, Tags
from holdfast.models.snapshot import Snapshot
from holdfast.unlearning.boundary import nearest_classes

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience


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
        above_zero(bound=bound)
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
        on_device = table.to(learner.device)
        y = nearest_classes(self.original.model, on_device, self.bound, low, high)
        return table.with_columns(y=y.to(table.device))
