"""The source model as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.method import Method, Tags
from holdfast.methods.testtime.phase import adapting

if TYPE_CHECKING:
    from holdfast.data import Table
    from holdfast.learner import Learner


class Source(Method):
    """The source model, which does not adapt: what every adaptation is compared with.

    It answers in evaluation mode, with the statistics of its own training data.
    """

    tags = Tags(
        family="test-time",
        title="The unchanged source model",
        source="Hendrycks and Dietterich, 2019",
        scenarios=frozenset({"domain"}),
    )

    def fit(self, learner: Learner, table: Table) -> bool:
        return adapting(learner)
