"""KTO for unlearning: an answer is undesirable in itself, not against another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.data import Batch, size
from holdfast.errors import UsageError, above_zero
from holdfast.memory.requests import REFUSAL, Refusals, of_request, parted, together, unpaired_in
from holdfast.method import Method, Tags
from holdfast.models.reference import Keep, ReferenceScores, answer_logprobs

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream

Link = Literal["sigmoid", "log_sigmoid"]


class KTO(Method):
    """KTO: what is to be forgotten is undesirable, by how much the model moves elsewhere.

    With r = log pi(y|x) / pi_ref(y|x) of an answer, and z the divergence from the model as it was,
    estimated on refusals and without gradient, not below 0,

        loss = (2 / beta) mean over F of (1 - g(beta (z - r))),     z = max(0, mean of r(refusals))

    where g is the sigmoid, or its logarithm. With the logarithm and z = 0 this is `npo` but for a
    constant.

    Args:
        beta: How soon an example is done with.
        link: g: `sigmoid` or `log_sigmoid`.
        weight: Of this loss, against what is chained after it.
        reference: How the model as it was is kept: `scores` or `model`, as in `npo`.

    Raises:
        UsageError: If `beta` is not above 0, or a word is none of those accepted.

    Differs from the paper: KTO estimates z on mismatched pairs of questions and answers; here, as
    in NPO's experiments, on questions with refusals. NPO's code has beta on r alone and takes
    negative estimates of z as they are; both terms are scaled here, and z is a divergence, as in
    KTO.
    """

    tags = Tags(
        family="unlearning",
        title="KTO: Model Alignment as Prospect Theoretic Optimization",
        source="Ethayarajh et al., 2024",
        scenarios=frozenset({"text"}),
        needs=frozenset({"boundaries", "refusal set"}),
        keeps=frozenset({"outputs"}),
    )
    replaces_loss = True

    def __init__(
        self,
        beta: float = 0.1,
        link: Link = "sigmoid",
        weight: float = 1.0,
        reference: Keep = "scores",
    ) -> None:
        super().__init__()
        above_zero(beta=beta)
        if link not in get_args(Link):
            raise UsageError(f"link must be {' or '.join(get_args(Link))}; given: {link!r}.")
        self.beta, self.link, self.weight, self.reference = beta, link, weight, reference
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
        with torch.no_grad():
            gained = answer_logprobs(learner, learner.forward(refused), refused)
            moved = (gained - self.before.of(learner, refused)).mean().clamp(min=0)
        ratio = answer_logprobs(learner, outputs, forget) - self.before.of(
            learner, learner.incoming
        )
        value = self.beta * (moved - ratio)
        liked = value.sigmoid() if self.link == "sigmoid" else F.logsigmoid(value)
        return together(self.weight * (2 / self.beta) * (1 - liked).mean(), kept)
