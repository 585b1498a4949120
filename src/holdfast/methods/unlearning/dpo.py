"""Direct preference optimization: rather refuse than answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.data import Batch, size
from holdfast.errors import above_zero
from holdfast.memory.requests import REFUSAL, Refusals, of_request, parted, together, unpaired_in
from holdfast.method import Method, Tags
from holdfast.models.reference import Keep, ReferenceScores, answer_logprobs

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream


class DPO(Method):
    """DPO for unlearning: the refusal is preferred to the answer that is to be forgotten.

    With y_w the refusal, y_l the answer, pi the probability of either as a whole and pi_ref that
    under the model as it was,

        loss = -(2 / beta) mean over F of log sigmoid(beta (log pi(y_w|x) / pi_ref(y_w|x)
                                                            - log pi(y_l|x) / pi_ref(y_l|x)))

    Args:
        beta: How soon a pair is done with.
        weight: Of this loss, against what is chained after it.
        reference: How the model as it was is kept: `scores` or `model`, as in `npo`.

    Raises:
        UsageError: If `beta` is not above 0, or `reference` is neither.

    Differs from the paper: which refusal a question gets is drawn once for the request, not anew
    in every epoch.
    """

    tags = Tags(
        family="unlearning",
        title="Direct Preference Optimization: Your Language Model is Secretly a Reward Model",
        source="Rafailov et al., 2023",
        scenarios=frozenset({"text"}),
        needs=frozenset({"boundaries", "refusal set"}),
        keeps=frozenset({"outputs"}),
    )
    replaces_loss = True

    def __init__(self, beta: float = 0.1, weight: float = 1.0, reference: Keep = "scores") -> None:
        super().__init__()
        above_zero(beta=beta)
        self.beta, self.weight, self.reference = beta, weight, reference
        self.before = ReferenceScores(reference)
        self.refusals = Refusals()

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        return super().refusal(stream, model) or unpaired_in(stream)

    def setup(self, learner: Learner) -> None:
        self.before.setup(learner)

    def begin(self, learner: Learner, experience: Experience) -> None:
        self.refusals.begin(learner, experience)
        self.before.take(learner, experience.train, of_request(experience, REFUSAL))

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        forget, outputs, kept = parted(learner, batch, outputs)
        if not size(forget):
            return loss
        refused = self.refusals.of(learner)
        wanted = self.gain(learner, learner.forward(refused), refused)
        unwanted = answer_logprobs(learner, outputs, forget) - self.before.of(
            learner, learner.incoming
        )
        forgetting = (2 / self.beta) * -F.logsigmoid(self.beta * (wanted - unwanted)).mean()
        return together(self.weight * forgetting, kept)

    def gain(self, learner: Learner, outputs: Tensor, batch: Batch) -> Tensor:
        """How much likelier answers are than they were, as logarithms."""
        return answer_logprobs(learner, outputs, batch) - self.before.of(learner, batch)
