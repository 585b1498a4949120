"""Pairs of answers as rows of language."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast.data import Batch
from holdfast.language.objective import IGNORED, CausalLM


class Pairs(CausalLM):
    """Each token of two answers from those before it: what a model says of a preference's sides.

    Batches hold (examples, 2, width); outputs are logits (examples, 2, width, vocabulary). Which
    answer is to be preferred is the trainer's own loss, not this one.
    """

    def forward(self, model: Callable[..., Any], batch: Batch) -> Tensor:
        flat = {name: batch[name].flatten(0, 1) for name in self.inputs if name in batch}
        outputs: Tensor = super().forward(model, flat).unflatten(0, (-1, 2))
        return outputs

    def asked(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return outputs[:, :, :-1].flatten(1, 2), batch["labels"][:, :, 1:].flatten(1, 2)

    def _replaced(self, labels: Tensor, drawn: Tensor) -> Tensor:
        shifted = F.pad(drawn.unflatten(1, (2, -1)), (1, 0))
        return torch.where(labels != IGNORED, shifted, labels)
