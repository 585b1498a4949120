"""Prediction of tokens, as an objective: outputs are the logits of every position."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.data import Batch
from holdfast.objective import Objective

IGNORED = -100
"""The label of a token that is not asked for."""


class CausalLM(Objective):
    """Each token from those before it: cross-entropy of the labelled tokens.

    Batches have `input_ids` and `labels` (examples, width), `labels` -100 where nothing is asked,
    and `attention_mask` or `position_ids` where rows are padded or packed. Outputs are logits
    (examples, width, vocabulary). An update descends the mean over all labelled tokens of its
    batches, as transformers does; an example's own loss is the mean over its own.
    """

    vectorised = False  # transformers' masks depend on their values
    inputs: tuple[str, ...] = ("input_ids", "attention_mask", "position_ids")

    def forward(self, model: Callable[..., Any], batch: Batch) -> Tensor:
        given = {name: batch[name] for name in self.inputs if name in batch}
        outputs: Tensor = model(**given, use_cache=False).logits
        return outputs

    def asked(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits and labels, each position's beside the label that it is to predict."""
        return outputs[:, :-1], batch["labels"][:, 1:]

    def token_losses(
        self, outputs: Float[Tensor, "examples width vocabulary"], batch: Batch
    ) -> Float[Tensor, "examples positions"]:
        """Cross-entropy of every labelled token in nats, 0 elsewhere."""
        logits, labels = self.asked(outputs, batch)
        return F.cross_entropy(
            logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
        )

    def losses(
        self, outputs: Float[Tensor, "examples width vocabulary"], batch: Batch
    ) -> Float[Tensor, " examples"]:
        _, labels = self.asked(outputs, batch)
        return self.token_losses(outputs, batch).sum(1) / (labels != IGNORED).sum(1).clamp(min=1)

    def loss(
        self, outputs: Float[Tensor, "examples width vocabulary"], batch: Batch
    ) -> Float[Tensor, ""]:
        logits, labels = self.asked(outputs, batch)
        return F.cross_entropy(
            logits.reshape(-1, logits.shape[-1]).float(),
            labels.reshape(-1),
            ignore_index=IGNORED,
        )

    def mean(self, values: Float[Tensor, "examples width"], batch: Batch) -> Float[Tensor, ""]:
        """The mean over labelled tokens of one value a position."""
        shown, labels = self.asked(values, batch)
        asked = labels != IGNORED
        return torch.where(asked, shown, 0.0).sum() / asked.sum().clamp(min=1)

    def weight(self, batch: Batch) -> Tensor:
        _, labels = self.asked(batch["labels"], batch)
        return (labels != IGNORED).sum()

    def scores(
        self, outputs: Float[Tensor, "examples width vocabulary"], batch: Batch
    ) -> Float[Tensor, " examples"]:
        """The share of an example's labelled tokens that are the likeliest."""
        logits, labels = self.asked(outputs, batch)
        asked = labels != IGNORED
        right = (logits.argmax(-1) == labels) & asked
        return right.sum(1) / asked.sum(1).clamp(min=1)

    def squared_norms(
        self, outputs: Float[Tensor, "examples width vocabulary"], batch: Batch
    ) -> Float[Tensor, " examples"]:
        """Of the logits of one token: the mean over those that an example asks for."""
        logits, labels = self.asked(outputs, batch)
        asked = labels != IGNORED
        norms = torch.where(asked, logits.float().square().sum(-1), 0.0)
        return norms.sum(1) / asked.sum(1).clamp(min=1)

    def measures(self, outputs: Tensor, batch: Batch) -> dict[str, Float[Tensor, " examples"]]:
        return {"loss": self.losses(outputs, batch)}

    def sampled(self, outputs: Tensor, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with every labelled token drawn from the model, given those before it."""
        logits, labels = self.asked(outputs, batch)
        chances = logits.float().softmax(-1).reshape(-1, logits.shape[-1])
        drawn = torch.multinomial(chances, 1, generator=generator).view(labels.shape)
        return {**batch, "labels": self._replaced(batch["labels"], drawn)}

    def _replaced(self, labels: Tensor, drawn: Tensor) -> Tensor:
        """`labels` with those that are asked for taken from `drawn`."""
        shifted = F.pad(drawn, (1, 0))
        return torch.where(labels != IGNORED, shifted, labels)


class Seq2SeqLM(CausalLM):
    """The tokens of an answer from a text and the answer's tokens before: encoder and decoder.

    `labels` (examples, width of answers) have a width of their own; the decoder's inputs are made
    from them by the model.
    """

    inputs = ("input_ids", "attention_mask")

    def forward(self, model: Callable[..., Any], batch: Batch) -> Tensor:
        given = {name: batch[name] for name in self.inputs if name in batch}
        outputs: Tensor = model(**given, labels=batch["labels"], use_cache=False).logits
        return outputs

    def asked(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return outputs, batch["labels"]

    def _replaced(self, labels: Tensor, drawn: Tensor) -> Tensor:
        return torch.where(labels != IGNORED, drawn, labels)


def objective_of(model: nn.Module) -> CausalLM:
    """The objective of a Hugging Face language model, by its configuration."""
    config: Any = getattr(model, "config", None)
    return Seq2SeqLM() if getattr(config, "is_encoder_decoder", False) else CausalLM()
