"""Packing: many short samples in one row, or one long text cut into full rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from holdfast.errors import UsageError
from holdfast.language.tokens import Ragged

IGNORED = -100
"""The label of a token that is not predicted."""


def pack_texts(texts: Ragged, length: int) -> tuple[dict[str, Tensor], int]:
    """All texts end to end, cut into rows of `length` tokens.

    Returns:
        The columns `input_ids` and `labels`, and the number of tokens left over at the end, which
        do not fill a row.
    """
    rows = len(texts.ids) // length
    kept = rows * length
    ids = torch.from_numpy(texts.ids[:kept].copy()).view(rows, length)
    labels = ids.clone()
    labels[:, 0] = IGNORED  # nothing comes before it in its row
    return {"input_ids": ids, "labels": labels}, len(texts.ids) - kept


def pack_samples(samples: Ragged, length: int, pad: int) -> dict[str, Tensor]:
    """Whole samples side by side, in order, as many a row as fit into `length` tokens.

    `position_ids` begin again at 0 with every sample, by which transformers keeps them from seeing
    one another; what is left of a row is padding that nothing sees and that is not scored.
    """
    row, start = _places(samples.lengths, length)
    rows = int(row[-1]) + 1
    width = int((start + samples.lengths).max())
    position = samples.position
    cells = np.repeat(row, samples.lengths) * width + np.repeat(start, samples.lengths) + position
    ids = np.full(rows * width, pad, np.int64)
    labels = np.full(rows * width, IGNORED, np.int64)
    ids[cells] = samples.ids
    labels[cells] = np.where(samples.scored, samples.ids, IGNORED)
    filled = np.zeros(rows, np.int64)
    np.maximum.at(filled, row, start + samples.lengths)
    positions = np.tile(np.arange(width), (rows, 1)) - filled[:, None]  # counted from the padding
    positions.reshape(-1)[cells] = position
    return {
        "input_ids": torch.from_numpy(ids).view(rows, width),
        "labels": torch.from_numpy(labels).view(rows, width),
        "position_ids": torch.from_numpy(positions),
    }


def _places(
    lengths: Int[np.ndarray, " samples"], length: int
) -> tuple[Int[np.ndarray, " samples"], Int[np.ndarray, " samples"]]:
    """The row of each sample and where in it the sample begins."""
    row, start, current, used = [], [], 0, 0
    for size in lengths.tolist():
        if used + size > length:
            current, used = current + 1, 0
        row.append(current)
        start.append(used)
        used += size
    return np.array(row, np.int64), np.array(start, np.int64)


@torch.no_grad()
def refuse_mixing(model: Any) -> None:
    """Raise if samples packed into one row would see one another in this model.

    Two rows of three samples are tried, so that whatever the model and its attention do is what is
    judged: other tokens in the first sample must change nothing in the next two, and all must have
    the logits that they have one by one. The model must be called without an attention mask and
    without a cache, as `CausalLM` calls it.

    Raises:
        UsageError: If the logits differ by more than rounding.
    """
    embedding = model.get_input_embeddings().weight
    vocabulary, device = embedding.shape[0], embedding.device
    sizes = (3, 4, 5)
    ids = torch.arange(2 * sum(sizes), device=device).view(2, -1) * 7 % vocabulary
    other = ids.clone()
    other[:, : sizes[0]] = (ids[:, : sizes[0]] + 1) % vocabulary
    positions = torch.cat([torch.arange(size, device=device) for size in sizes]).expand(2, -1)
    training = model.training
    model.eval()
    try:
        packed, disturbed = (
            model(input_ids=row, position_ids=positions, use_cache=False).logits.float()
            for row in (ids, other)
        )
        apart = torch.cat(
            [
                model(input_ids=part.contiguous(), use_cache=False).logits.float()
                for part in ids.split(sizes, dim=1)
            ],
            dim=1,
        )
    except (TypeError, ValueError) as error:  # it takes no position_ids
        raise _mixes(model) from error
    finally:
        model.train(training)
    unit = torch.finfo(model.dtype).eps * float(apart.abs().max())
    leak = float((packed - disturbed)[:, sizes[0] :].abs().max())
    # One by one, sums are taken in another order, and their rounding grows from block to block.
    if leak > 8 * unit or float((packed - apart).abs().max()) > 256 * unit:
        raise _mixes(model)


def _mixes(model: Any) -> UsageError:
    attention = getattr(model.config, "_attn_implementation", None)
    return UsageError(
        f"Samples packed into one row would see one another in {model.config.model_type!r} with "
        f"attention {attention!r}; train it without packing."
    )
