"""Fine-tuning on what is kept, and leaving the rest to forgetting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.data import Table
from holdfast.method import Method, Tags
from holdfast.unlearning.request import retained

if TYPE_CHECKING:
    from holdfast.learner import Learner


class FinetuneRetain(Method):
    """Fine-tuning on the retain set (FT): what is not trained on any more is to fade.

    theta <- argmin over theta of the mean loss on the retain set, from the original weights
    """

    tags = Tags(
        family="unlearning",
        title="Eternal sunshine of the spotless net: selective forgetting in deep networks",
        source="Golatkar et al., 2020",
        scenarios=frozenset({"class", "domain", "text"}),
        needs=frozenset({"boundaries", "retain set"}),
    )

    def select(self, learner: Learner, table: Table) -> Table:
        return retained(learner)
