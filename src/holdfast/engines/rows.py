"""A trainer's batches as rows of examples, which is how methods mix, store and weigh them.

Three forms are known: one row an example; several examples one after another in a single row
without padding (what TRL makes where `padding_free` or `packing` is on); and the halves of
preferences, all chosen answers before all rejected ones (TRL's DPO).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from holdfast.data import PADDING, Batch, size
from holdfast.errors import UsageError

Inputs = dict[str, Any]


def rows_of(inputs: Mapping[str, Any], pairs: bool = False) -> tuple[Batch, Callable[..., Inputs]]:
    """The examples of a batch, and what makes the trainer's form of such examples again.

    Args:
        inputs: What the trainer's collator made.
        pairs: Whether its rows are the chosen and then the rejected answers.

    Returns:
        No columns if none, `input_ids` or `labels`, tells how many examples there are.
    """
    given = {name: value for name, value in inputs.items() if value is not None}
    if pairs:
        return _paired(given), _halves
    if "cu_seq_lens_q" in given and len(given["input_ids"]) == 1:
        return _unpacked(given), dict
    first = given.get("input_ids", given.get("labels"))
    if not isinstance(first, Tensor) or first.dim() == 0:
        return {}, partial(_joined, given, 0)
    batch = {
        name: value
        for name, value in given.items()
        if isinstance(value, Tensor) and value.dim() and len(value) == len(first)
    }
    beside = {name: value for name, value in given.items() if name not in batch}
    return batch, partial(_joined, beside, len(first))


def _joined(beside: Inputs, rows: int, batch: Batch) -> Inputs:
    if beside and batch and size(batch) != rows:
        raise UsageError(
            "Rows cannot be mixed into batches that hold something other than one entry a row: "
            f"{', '.join(beside)}."
        )
    return {**batch, **beside}


def _unpacked(given: Inputs) -> Batch:
    """Examples that shared a row, padded to a row each."""
    place = given["position_ids"][0]
    example = (place == 0).cumsum(0) - 1
    shape = (int(example[-1]) + 1, int(place.max()) + 1)

    def spread(name: str, values: Tensor) -> Tensor:
        rows = values.new_full(shape, PADDING.get(name, 0))
        return rows.index_put((example, place), values)

    return {
        "input_ids": spread("input_ids", given["input_ids"][0]),
        "labels": spread("labels", given["labels"][0]),
        "attention_mask": spread("attention_mask", torch.ones_like(place)),
    }


def _paired(given: Inputs) -> Batch:
    """Two answers a row, (examples, 2, width), labels where an answer's tokens are."""
    ids, asked = given["input_ids"], given["completion_mask"]
    halves = {
        "input_ids": ids,
        "labels": ids.masked_fill(asked == 0, PADDING["labels"]),
        "attention_mask": given["attention_mask"],
    }
    batch = {name: value.unflatten(0, (2, -1)).transpose(0, 1) for name, value in halves.items()}
    return batch | {name: given[name] for name in given if name.endswith("_logps")}


def _halves(batch: Batch) -> Inputs:
    inputs: Inputs = {name: value for name, value in batch.items() if name.endswith("_logps")}
    for name in ("input_ids", "attention_mask", "labels"):
        inputs[name] = batch[name].transpose(0, 1).flatten(0, 1)
    inputs["completion_mask"] = (inputs.pop("labels") != PADDING["labels"]).long()
    return inputs
