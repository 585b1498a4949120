"""The model as it was before its first step: what unlearning is measured and bounded against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.data import Batch, Table, size
from holdfast.errors import UsageError
from holdfast.evaluation import TOKENS_AT_ONCE, undisturbed
from holdfast.losses import sequence_logprobs
from holdfast.memory.remembers import Remembers
from holdfast.models import adapters
from holdfast.models.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.learner import Learner

Keep = Literal["scores", "model"]


class Reference(Remembers):
    """A frozen copy of the model; with an adapter that changes nothing yet, the model without it.

    In evaluation mode and without gradients, whatever is set around it.

    Args:
        like: Answers with the model.
    """

    remembers = ("off",)

    def __init__(self, like: Callable[[], nn.Module]) -> None:
        super().__init__()
        self._like = like
        self.off = False  # the model itself stands for it, its adapter switched off
        self.copy = Snapshot(like)

    def take(self) -> None:
        """From now on, the model as it is now."""
        self.off = adapters.idle(self._like())
        if not self.off:
            self.copy.take()

    def outputs(self, learner: Learner, batch: Batch) -> Tensor:
        """Its outputs on a batch."""
        forward = learner.objective.forward
        if not self.off:
            return self.copy.outputs(forward, batch)
        model = self._like()
        with undisturbed(model, device=learner.device), adapters.switched_off(model):
            return forward(model, batch)


class ReferenceScores(Remembers):
    """Log-probabilities of some rows' answers under the model as it was, in nats.

    Either they are computed once and found again by what the rows hold, so that no second model
    stays in memory, or the model does and is asked every time.

    Args:
        keep: `"scores"` or `"model"`.

    Raises:
        UsageError: If `keep` is neither.
    """

    keys: Tensor | None
    scores: Tensor | None

    def __init__(self, keep: Keep = "scores") -> None:
        super().__init__()
        if keep not in get_args(Keep):
            raise UsageError(f"reference must be {' or '.join(get_args(Keep))}; given: {keep!r}.")
        self.keep = keep
        self.register_buffer("keys", None)
        self.register_buffer("scores", None)

    def setup(self, learner: Learner) -> None:
        """Before the first experience, where the reference is a model."""
        if self.keep == "model":
            self.model = Reference(lambda: learner.model)

    def take(self, learner: Learner, *tables: Table) -> None:
        """From now on, of the model as it is now, for the rows of these tables."""
        if self.keep == "model":
            self.model.take()
            return
        keys, scores = [], []
        model = learner.model
        with undisturbed(model, device=learner.device), learner.autocast():
            for table in tables:
                rows = max(1, TOKENS_AT_ONCE // table["input_ids"].shape[1])
                for batch in table.to(learner.device).chunks(rows):
                    keys.append(_keys(batch))
                    scores.append(
                        answer_logprobs(learner, learner.objective.forward(model, batch), batch)
                    )
        joined = torch.cat(keys)
        order = joined.argsort()
        self.register_buffer("keys", joined[order])
        self.register_buffer("scores", torch.cat(scores)[order])

    def of(self, learner: Learner, batch: Batch) -> Float[Tensor, " rows"]:
        """The scores of a batch's rows; NaN for one that was in none of the tables."""
        if self.keep == "model":
            return answer_logprobs(learner, self.model.outputs(learner, batch), batch)
        assert self.keys is not None
        assert self.scores is not None
        asked = _keys(batch)
        place = torch.searchsorted(self.keys, asked).clamp(max=len(self.keys) - 1)
        return torch.where(self.keys[place] == asked, self.scores[place], torch.nan)


def answer_logprobs(learner: Learner, outputs: Tensor, batch: Batch) -> Float[Tensor, " rows"]:
    """The log-probability of each row's labelled tokens together: a sum, not a mean."""
    objective: object = learner.objective
    from holdfast.language.objective import CausalLM

    assert isinstance(objective, CausalLM)
    if not size(batch):
        return outputs.new_zeros(0)
    return sequence_logprobs(*objective.asked(outputs, batch), shift=False)


def _keys(batch: Batch) -> Tensor:
    from holdfast.language.example_scores import fingerprints

    return fingerprints(batch)
