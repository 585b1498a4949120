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
    answer is to be preferred is the trainer's own loss, not this one. Batches of single texts
    (examples, width), such as a model says them itself, are taken as `CausalLM` takes them.
    """

    def forward(self, model: Callable[..., Any], batch: Batch) -> Tensor:
        if batch["input_ids"].dim() == 2:
            return super().forward(model, batch)
        flat = {name: batch[name].flatten(0, 1) for name in self.inputs if name in batch}
        outputs: Tensor = super().forward(model, flat).unflatten(0, (-1, 2))
        return outputs

    def asked(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        if batch["input_ids"].dim() == 2:
            return super().asked(outputs, batch)
        return outputs[:, :, :-1].flatten(1, 2), batch["labels"][:, :, 1:].flatten(1, 2)

    def _replaced(self, labels: Tensor, drawn: Tensor) -> Tensor:
        if labels.dim() == 2:
            return super()._replaced(labels, drawn)
        shifted = F.pad(drawn.unflatten(1, (2, -1)), (1, 0))
        return torch.where(labels != IGNORED, shifted, labels)
