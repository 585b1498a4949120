"""Fine-tuning of one matrix on one fact: FT-L and FT-M."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.data import Batch
from holdfast.errors import UsageError, above_zero, at_least
from holdfast.language.objective import IGNORED
from holdfast.method import Method, Tags
from holdfast.models.projections import Projection, projection, refusal

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream


class FTM(Method):
    """Train one value projection on the target, in full.

        W <- Adam(W, CE(target | prompt)),   |W - W_before| <= box

    Args:
        layer: Number of the block, or a pattern of its projection's name; None: two thirds deep.
        lr: Of Adam, begun anew for every edit.
        steps: Most steps of an edit.
        box: No weight moves further in an edit; 0: any distance.
        enough: Loss below which an edit ends.

    Raises:
        UsageError: If an argument is out of range.

    Differs from the paper: dropout is off, as in the official code.

    Example:
        >>> FTM(box=5e-4).steps
        25
    """

    tags = Tags(
        family="editing",
        title="A Comprehensive Study of Knowledge Editing for Large Language Models",
        source="Zhang et al., 2024",
        scenarios=frozenset({"text"}),
        needs=frozenset({"transformer blocks", "boundaries"}),
    )
    chooses_weights = True

    start: Tensor | None

    def __init__(
        self,
        layer: int | str | None = None,
        lr: float = 5e-4,
        steps: int = 25,
        box: float = 0.0,
        enough: float = 1e-2,
    ) -> None:
        super().__init__()
        at_least(1, steps=steps)
        above_zero(lr=lr)
        for name, value in (("box", box), ("enough", enough)):
            if value < 0:
                raise UsageError(f"{name} must not be negative; given: {value}.")
        self.layer, self.lr, self.steps, self.box, self.enough = layer, lr, steps, box, enough
        self.register_buffer("start", None)
        self._last = float("inf")

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        return super().refusal(stream, model) or refusal(type(self).__name__, self.layer, model)

    def setup(self, learner: Learner) -> None:
        learner.make_optimizer = partial(torch.optim.Adam, lr=self.lr)
        learner.optimizer_state, learner.epochs = "reset", self.steps
        self.place(learner.model)

    def expand(self, learner: Learner, experience: Experience) -> None:
        learner.model.requires_grad_(False)
        self.place(learner.model).module.weight.requires_grad_(True)

    def begin(self, learner: Learner, experience: Experience) -> None:
        self.start = self.place(learner.model).module.weight.detach().clone() if self.box else None

    def batch(self, learner: Learner, batch: Batch) -> Batch:
        learner.model.eval()  # an edit has no use for dropout
        return batch

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        self._last = float(loss.detach())  # an edit that is learned ends: it must be looked at
        return loss

    @torch.no_grad()
    def step(self, learner: Learner) -> None:
        if self.start is not None:
            weight = self.place(learner.model).module.weight
            torch.clamp(weight, self.start - self.box, self.start + self.box, out=weight)
        if self._last < self.enough:
            learner.enough = True

    def end(self, learner: Learner, experience: Experience) -> None:
        self.start = None
        learner.note(loss=self._last)

    def place(self, model: nn.Module) -> Projection:
        """The value projection that is trained."""
        return projection(model, self.layer, 2 / 3)


class FTL(FTM):
    """Train one value projection so that the prompt's last token foretells the target's tokens.

        W <- Adam(W, -mean over tokens t of the target of log p(t | prompt)),
        |W - W_before| <= box

    Every token of the target is asked for at the same place, the one after the prompt. That is what
    is known as FT-L; targets of several tokens cannot all be learned so. `ft_m` learns them one
    after another.

    Args:
        layer: Number of the block, or a pattern of its projection's name; None: two thirds deep.
        lr: Of Adam, begun anew for every edit.
        steps: Most steps of an edit.
        box: No weight moves further in an edit; 0: any distance.
        enough: Loss below which an edit ends.

    Raises:
        UsageError: If an argument is out of range.

    Differs from the paper: it is the baseline of Meng et al. as the official code of EasyEdit has
    it; there the box is around the weights before the edit too.

    Example:
        >>> FTL(layer=0).lr
        0.0005
    """

    tags = Tags(
        family="editing",
        title="Locating and Editing Factual Associations in GPT",
        source="Meng et al., 2022",
        scenarios=frozenset({"text"}),
        needs=frozenset({"transformer blocks", "boundaries"}),
    )
    replaces_loss = True

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        labels = batch["labels"][:, 1:]
        asked = labels != IGNORED
        first = asked.int().argmax(1)  # the logits here are of the prompt's last token
        rows = torch.arange(len(labels), device=labels.device)
        logprobs = F.log_softmax(outputs[rows, first].float(), -1)
        found = logprobs.gather(1, labels.clamp(min=0)) * asked
        loss = -(found.sum(1) / asked.sum(1).clamp(min=1)).mean()
        return super().loss(learner, batch, outputs, loss)
