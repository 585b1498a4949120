"""Joint training: the upper bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.data import Table
from holdfast.method import ALL_KINDS, Method, Tags

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience


class Joint(Method):
    """Joint training on all experiences' data at once, from a fresh model.

    Everything is learned in place of the first experience and nothing after it, so every row of
    the matrix is the same and nothing is forgotten. With equal epochs it makes as many steps as
    plain fine-tuning makes on the whole stream.
    """

    tags = Tags(
        family="bound",
        title="Joint training (upper bound)",
        source="",
        scenarios=ALL_KINDS,
        needs=frozenset({"past data"}),
    )

    def expand(self, learner: Learner, experience: Experience) -> None:
        grow = getattr(getattr(learner.model, "head", None), "grow", None)
        if grow is not None:
            assert learner.stream is not None
            grow(learner.stream.classes)

    def select(self, learner: Learner, table: Table) -> Table:
        assert learner.stream is not None
        if learner.index > 0:
            return table.take(slice(0, 0))
        return Table.concat([experience.train for experience in learner.stream])
