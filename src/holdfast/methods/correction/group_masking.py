"""Group masking: a softmax over the classes of the mini-batch alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from holdfast.data import Batch
from holdfast.losses import among_present
from holdfast.method import Method, Tags

if TYPE_CHECKING:
    from holdfast.learner import Learner


class GroupMasking(Method):
    """Group masking: the training loss sees the logits of the classes in the batch alone.

        loss = mean of -log softmax(f(x); C)_y over (x, y) in B,   C = classes of B

    so that the rows of all other classes get no gradient, and are not pushed down by every batch
    that they are not in. At test all logits count. What other methods mix into the batch counts.

    Source: Lesort et al., "Challenging common assumptions about catastrophic forgetting and
    knowledge accumulation" (2023); likewise Caccia et al. (2022), there for the stream's part of a
    batch (`er_ace`).

    Example:
        >>> from holdfast.method import chain
        >>> from holdfast.methods import EWC
        >>> method = chain(GroupMasking(), EWC(strength=100.0))
    """

    tags = Tags(
        "correction",
        "Challenging common assumptions about catastrophic forgetting and knowledge accumulation",
        "Lesort et al., 2023",
        scenarios=frozenset({"class"}),
        needs=frozenset({"labels"}),
    )

    def logits(self, learner: Learner, batch: Batch, outputs: Tensor) -> Tensor:
        return among_present(outputs, batch["y"])
