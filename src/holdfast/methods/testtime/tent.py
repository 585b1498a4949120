"""Test-time entropy minimisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from holdfast.data import Batch
from holdfast.losses import entropy
from holdfast.method import Method, Tags
from holdfast.methods.testtime.phase import Rule, adapting, confine, optimizer_of
from holdfast.models.norms import affine, use_batch_statistics

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience


class TENT(Method):
    """Test-time entropy minimisation: make the model sure of what it already answers.

        loss = mean over the batch of H(softmax f(x))

    descended by the scales and shifts of the normalisation layers alone; batch normalisation goes
    by the statistics of the batch. What counts is the answer of the pass that is descended, from
    before the step. Whether it is ever set back (never, with each domain, with each batch) is the
    driver's business: `TestTimeAdapter.reset` and `episodic`.

    Args:
        lr: Learning rate.
        optimizer: `adam`, or `sgd` with momentum 0.9 (the paper's for ImageNet, at 2.5e-4).

    Raises:
        UsageError: If an argument is out of range.

    Differs from the paper: scales and shifts of layer, group, instance and RMS normalisation
    adapt too, where a model has those; the paper speaks of batch normalisation.
    """

    tags = Tags(
        family="test-time",
        title="Tent: Fully Test-Time Adaptation by Entropy Minimization",
        source="Wang et al., 2021",
        scenarios=frozenset({"domain"}),
        needs=frozenset({"norm layers"}),
    )
    replaces_loss = True
    chooses_weights = True

    def __init__(self, lr: float = 1e-3, optimizer: Rule = "adam") -> None:
        super().__init__()
        self.lr, self.optimizer = lr, optimizer
        self._make = optimizer_of(optimizer, lr)

    def expand(self, learner: Learner, experience: Experience) -> None:
        if adapting(learner):
            use_batch_statistics(learner.model)
            confine(learner, affine(learner.model).values(), self._make)

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        return entropy(outputs).mean() if adapting(learner) else loss
