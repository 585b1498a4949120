"""One forward pass of a Trainer, and its share of an update.

Trainer scales losses in two ways. A loss over tokens is divided by the labelled tokens of the whole
update, on all processes; any other is a mean, divided by the number of passes. Methods are given
the mean of their pass in both cases, and what they answer counts by the pass's share, so that a
penalty counts once per update, however many passes make one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from holdfast.data import Batch
from holdfast.engines.rows import rows_of
from holdfast.engines.stage import compares
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.engines.bridge import Bridge


def loss_of(
    bridge: Bridge, own: Callable[..., Any], model: Any, inputs: Any, items: Tensor | int | None
) -> Tensor:
    """The trainer's own loss on what methods mix in, and the methods' terms beside it.

    Args:
        bridge: What methods are given.
        own: The trainer's `compute_loss`.
        model: As the trainer calls it, wrapped for several processes.
        inputs: What the trainer's data brought.
        items: Labelled tokens of the whole update, if the trainer counted them.

    Raises:
        UsageError: If methods need rows, and nothing tells which there are.
    """
    bridge.incoming, restore = rows_of(inputs, pairs=compares(bridge.trainer))
    if not bridge.incoming and (bridge.mixes or bridge.reads_outputs):
        raise UsageError(
            "Methods know the examples of a batch by its column 'input_ids' or 'labels'; this "
            f"trainer's batches have {', '.join(inputs)}."
        )
    batch = arrived = bridge.incoming
    for mix in bridge.mixes:
        batch = mix(bridge, batch)
    if batch is not arrived:
        inputs = restore(batch)
    share = Share(bridge.trainer, arrived, batch, items)
    outputs = None
    if bridge.reads_outputs and not _fused(bridge.trainer):
        loss, answer = own(model, inputs, return_outputs=True, num_items_in_batch=items)
        outputs = answer["logits"] if isinstance(answer, dict) else answer[1]
    else:
        loss = own(model, inputs, num_items_in_batch=items)
        if bridge.reads_outputs:
            outputs = bridge.forward(batch)

    def terms(mean: Tensor) -> Tensor:
        for term in bridge.terms:
            mean = term(bridge, batch, outputs, mean)
        return mean

    return share.hand_back(loss, terms)


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


def _fused(trainer: Any) -> bool:
    """Whether the trainer's loss never makes logits, as TRL's do."""
    return any(cls.__module__.startswith("trl.") for cls in type(trainer).__mro__)
