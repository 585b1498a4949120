"""One forward pass of a Trainer: its share of an update.

Trainer scales losses in two ways. A loss over tokens is divided by the labelled tokens of the whole
update, on all processes; any other is a mean, divided by the number of passes. Methods are given
the mean of their pass in both cases, and what they answer counts by the pass's share, so that a
penalty counts once per update, however many passes make one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from holdfast.data import Batch


def labelled(batch: Batch, shifted: bool) -> Tensor:
    """How many labels of a batch are asked for; `shifted`: the first of a row never is."""
    labels = batch.get("shift_labels", batch["labels"])
    if shifted and "shift_labels" not in batch:
        labels = labels[..., 1:]
    return (labels != -100).sum()


class Share:
    """What a pass counts in its update, as the trainer scales it.

    Args:
        trainer: Whose rules hold.
        incoming: The rows that the trainer's data brought.
        batch: The rows that the model saw.
        items: Labelled tokens of the whole update, as the trainer counted them, if it did.
    """

    def __init__(
        self, trainer: Any, incoming: Batch, batch: Batch, items: Tensor | int | None
    ) -> None:
        self.of_mean: Tensor | float = 1.0
        """Times the pass's mean loss: what is to be handed back to the trainer."""
        self.to_mean: Tensor | float = 1.0
        """Times the loss as the trainer computed it: the pass's mean loss."""
        if not _scaled(trainer, items):
            return
        if items is None:
            self.of_mean = 1 / trainer.current_gradient_accumulation_steps
            self.to_mean = trainer.current_gradient_accumulation_steps
            return
        shifted = getattr(trainer, "_loss_shifts_labels", False)
        total = torch.as_tensor(items).clamp(min=1)
        copies = 1  # DDP averages over processes what was divided by the tokens of all of them
        if trainer.args.average_tokens_across_devices:
            copies = trainer.accelerator.num_processes
        self.of_mean = labelled(incoming, shifted) * copies / total
        self.to_mean = total / (labelled(batch, shifted).clamp(min=1) * copies)

    def hand_back(self, loss: Tensor, terms: Callable[[Tensor], Tensor]) -> Tensor:
        """The trainer's loss with `terms` applied to the mean loss of the pass."""
        return terms(loss * self.to_mean) * self.of_mean


def _scaled(trainer: Any, items: Tensor | int | None) -> bool:
    """Whether `compute_loss` answers with a loss already scaled for accumulation."""
    told = getattr(trainer, "loss_is_scaled_for_ga", None)
    if told is not None:
        return bool(told)
    by_items = trainer.model_accepts_loss_kwargs and items is not None
    return bool(by_items or trainer.compute_loss_func is not None)
