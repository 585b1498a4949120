"""Half-reset: a share of a fine-tuned model's weights goes back to what it was before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.errors import UsageError
from holdfast.models.anatomy import blocks
from holdfast.models.halves import Level, draw, draw_names, open_masks, shapes

State = Mapping[str, Tensor]


def half_reset(
    model: nn.Module,
    base: State,
    *,
    ratio: float = 0.5,
    level: Level = "category",
    seed: int = 0,
    tuned: State | None = None,
) -> dict[str, Tensor]:
    """The weights of a fine-tuned model, with a random share set back to those before.

    The share is drawn as half fine-tuning draws what it trains: balanced in every block and
    category. Outside the blocks (embeddings, output layer) it is drawn among whole tensors. At
    ratio 0 it is the tuned model, at ratio 1 the base.

    Args:
        model: A transformer with the tuned weights; it is not changed.
        base: State dict from before fine-tuning.
        ratio: Share set back, in [0, 1].
        level: `"category"`, `"layer"` or `"model"`, as in `HFT`.
        seed: Of the draw.
        tuned: Weights to begin from in place of the model's own.

    Returns:
        A state dict for `model.load_state_dict`; tensors that are not mixed are not copied.

    Raises:
        UsageError: If the model has no blocks, or if `base` is of another model.

    Source: Hui et al., "HFT: Half fine-tuning for large language models" (2024).

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=2, n_head=2, vocab_size=16))
        >>> zero = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
        >>> half = half_reset(model, zero, ratio=1.0)
        >>> bool(half["transformer.h.0.mlp.c_fc.weight"].any())
        False
    """
    state = dict(tuned) if tuned is not None else model.state_dict()
    for name, tensor in state.items():
        if name not in base or base[name].shape != tensor.shape:
            there = tuple(base[name].shape) if name in base else "nothing"
            raise UsageError(
                f"The base is of another model: {name} is {tuple(tensor.shape)} in the tuned one "
                f"and {there} in the base."
            )
    named = dict(model.named_parameters())
    anatomy = blocks(model)
    words = f"half-reset {seed}"
    half = draw(anatomy, shapes(model), ratio=ratio, level=level, seed=words)
    back = open_masks(named, [part for unit in half.chosen for part in unit.parts])
    inside = {part.parameter for units in anatomy.values() for u in units for part in u.parts}
    outside = [name for name in named if name not in inside]
    back.update(dict.fromkeys(draw_names(outside, ratio, f"{words} outside"), True))
    # A tensor with two names (tied embeddings) goes back under both.
    first_names = {id(parameter): name for name, parameter in named.items()}
    for name, parameter in model.state_dict(keep_vars=True).items():
        mask = back.get(first_names.get(id(parameter), ""))
        if mask is None or name not in state:
            continue
        before = base[name].to(state[name])
        state[name] = before if mask is True else torch.where(mask, before, state[name])
    return state


def half_reset_curve(
    model: nn.Module,
    base: State,
    evaluate: Callable[[nn.Module], Mapping[str, float]],
    *,
    ratios: Iterable[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    seeds: Iterable[int] = (0, 1, 2),
    level: Level = "category",
) -> list[dict[str, Any]]:
    """What is gained of the old and lost of the new as more of the weights go back.

    Args:
        model: A transformer with the tuned weights, which it has again in the end.
        base: State dict from before fine-tuning.
        evaluate: From the model to numbers by name: the loss on old data, on new data.
        ratios: Shares to set back.
        seeds: Draws at every ratio.
        level: As in `half_reset`.

    Returns:
        One dictionary a ratio and seed: `ratio`, `seed`, and what `evaluate` answered.
    """
    tuned = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    draws = list(seeds)
    points = []
    try:
        for ratio in ratios:
            for seed in draws:
                state = half_reset(model, base, ratio=ratio, level=level, seed=seed, tuned=tuned)
                model.load_state_dict(state)
                points.append({"ratio": ratio, "seed": seed, **evaluate(model)})
    finally:
        model.load_state_dict(tuned)
    return points
