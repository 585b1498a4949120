"""Memory: how much training takes, in closed form, and what to do when it is too much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from holdfast.errors import at_least, unknown
from holdfast.language.folders import Description

STATES = {"adamw": 2, "adam": 2, "momentum": 1, "sgd": 0}
"""Optimizer to the numbers that it keeps for every trained weight."""
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
LORA_RANK = 16
"""Of the LoRA that `advice` speaks of, on queries and values."""


@dataclass(frozen=True)
class Estimate:
    """Bytes of one training step by what they are for."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


def estimate(
    description: Description,
    *,
    batch: int,
    length: int,
    trainable: int,
    optimizer: str = "adamw",
    checkpointing: bool = False,
    dtype: str = "float32",
) -> Estimate:
    """The parts of `estimate_memory`."""
    at_least(1, batch=batch, length=length)
    at_least(0, trainable=trainable)
    if optimizer not in STATES:
        raise unknown("optimizer", optimizer, STATES)
    if dtype not in BYTES:
        raise unknown("dtype", dtype, BYTES)
    size, tokens = BYTES[dtype], batch * length
    hidden, keys, inner = description.hidden, description.key_width, description.inner
    block = (8 * hidden + 2 * keys + 5 * inner) * tokens * size
    if description.kind == "seq2seq":  # a bias of attention keeps its matrix
        block += 5 * description.heads * length * tokens * size
    if checkpointing:
        kept = description.layers * hidden * tokens * size + block
    else:
        kept = description.layers * block
    return Estimate(
        weights=(description.parameters + description.adapter_parameters) * size,
        gradients=trainable * size,
        optimizer=trainable * size * STATES[optimizer],
        activations=kept + description.vocabulary * tokens * (size + 8),
    )


def estimate_memory(
    description: Description,
    *,
    batch: int,
    length: int,
    trainable: int,
    optimizer: str = "adamw",
    checkpointing: bool = False,
    dtype: str = "float32",
) -> int:
    """Bytes that a training step takes at its peak, about.

    With b bytes a number, P weights, T of them trained, s numbers an optimizer keeps for each, n =
    batch * length tokens, L blocks of width h with keys of width k and feed-forward layers of
    width f, and V rows of vocabulary:

        P b  +  T b  +  T b s  +  L n (8 h + 2 k + 5 f) b  +  n V (b + 8)

    which are weights, gradients, optimizer, what backward needs of every block (the inputs of its
    norms and matrices, queries, keys, values), and the logits with their log-probabilities and
    gradients in float32. With gradient checkpointing the fourth term is L n h b plus that of one
    block. A block of Llama needs 4 f, one of GPT-2 with its longer activation function 4.5 f: the
    5 f is a little more than either. Counted for attention that does not keep its matrix
    (`"sdpa"` without dropout); of encoder-decoder models, whose attention has a bias, five matrices
    a head are added. What the allocator and the libraries take is left out.

    Args:
        description: Of the model, from `describe`.
        batch: Rows of one pass.
        length: Tokens of a row.
        trainable: Weights that are trained.
        optimizer: `"adamw"`, `"adam"`, `"momentum"` or `"sgd"`.
        checkpointing: Whether activations are computed again in backward.
        dtype: Of weights, gradients and activations.
    """
    return estimate(
        description,
        batch=batch,
        length=length,
        trainable=trainable,
        optimizer=optimizer,
        checkpointing=checkpointing,
        dtype=dtype,
    ).total


def free_memory(device: str | torch.device = "cpu") -> int:
    """Bytes that are free on a device."""
    kind = torch.device(device)
    if kind.type == "cuda":
        return int(torch.cuda.mem_get_info(kind)[0])
    import psutil

    return int(psutil.virtual_memory().available)


def advice(description: Description, available: int, **settings: Any) -> str | None:
    """What to change where a step needs more than is available; None where it fits.

    Args:
        description: Of the model.
        available: Bytes, as from `free_memory`.
        settings: As of `estimate_memory`.

    Returns:
        Sentences with the need and with what would fit: a smaller batch, gradient checkpointing,
        LoRA.
    """
    need = estimate_memory(description, **settings)
    if need <= available:
        return None
    added = LORA_RANK * description.layers * (3 * description.hidden + description.key_width)
    lora = min(added, settings["trainable"])
    options: list[str] = []
    for name, change in (
        ("", {}),
        ("gradient checkpointing", {"checkpointing": True}),
        ("LoRA", {"trainable": lora}),
        ("LoRA and gradient checkpointing", {"checkpointing": True, "trainable": lora}),
    ):
        changed = {**settings, **change}
        if changed == settings and change:
            continue
        rows = _largest(description, available, changed)
        if rows >= settings["batch"]:
            options.append(name)
        elif rows:
            options.append(f"{name + ' with ' if name else ''}a batch of {rows}")
    said = (
        f"would fit: {'; or '.join(options)}."
        if options
        else "neither a smaller batch nor gradient checkpointing nor LoRA would fit: take a "
        "smaller model, shorter rows, bfloat16, or a larger machine."
    )
    return f"A step needs about {_shown(need)} of memory, and {_shown(available)} are free; {said}"


def _shown(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _largest(description: Description, available: int, settings: dict[str, Any]) -> int:
    """The largest batch that fits; the need is linear in it."""
    one = estimate_memory(description, **{**settings, "batch": 1})
    two = estimate_memory(description, **{**settings, "batch": 2})
    return max(0, 1 + (available - one) // (two - one)) if one <= available else 0
