"""Value projections: the last matrix of a block's feed-forward part, seen as a memory.

Its inputs are keys and its outputs the values that are added to the residual stream, so that a fact
can be written into it, or beside it, without touching anything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.data import Batch
from holdfast.errors import UsageError
from holdfast.models.anatomy import blocks


@dataclass(frozen=True)
class Projection:
    """The value projection of one block.

    Attributes:
        name: Of the module in the model.
        block: Of its block.
        index: Of the block, from 0.
        module: An `nn.Linear`, or the `Conv1D` of transformers, whose weight is turned.
        turned: Whether it is a `Conv1D`.
    """

    name: str
    block: str
    index: int
    module: Any
    turned: bool

    @property
    def keys(self) -> int:
        """Width of what comes in."""
        return int(self.module.weight.shape[0 if self.turned else 1])

    @property
    def values(self) -> int:
        """Width of what goes out."""
        return int(self.module.weight.shape[1 if self.turned else 0])

    @property
    def matrix(self) -> Float[Tensor, "values keys"]:
        """The weight, turned if need be; writing into it writes into the model."""
        weight: Tensor = self.module.weight.detach()
        return weight.T if self.turned else weight

    def mapped(self, keys: Tensor, change: Tensor) -> Tensor:
        """What a change of the weight, in the weight's own layout, adds to the outputs."""
        return keys @ change if self.turned else F.linear(keys, change)


def value_projections(model: nn.Module) -> list[Projection]:
    """The value projections of a model, one a block, in order.

    Raises:
        UsageError: If the model has no transformer blocks, or if a block has not exactly one (a
            mixture of experts has many).
    """
    found = []
    for index, (block, units) in enumerate(blocks(model).items()):
        own = [
            unit
            for unit in units
            if unit.kind in ("down", "fc2")
            and unit.category == "feedforward"
            and not unit.expert
            and unit.weight.whole
        ]
        if len(own) != 1:
            raise UsageError(
                f"{block} of {type(model).__name__} has {len(own)} value projections; accepted are "
                "models with one feed-forward part in every block (no mixture of experts)."
            )
        name = own[0].weight.parameter.removesuffix(".weight")
        module = model.get_submodule(name)
        found.append(Projection(name, block, index, module, not isinstance(module, nn.Linear)))
    return found


def projection(model: nn.Module, layer: int | str | None, depth: float) -> Projection:
    """The value projection of one block.

    Args:
        model: Any transformer.
        layer: Number of the block, negative from the end; or a pattern of the projection's name,
            such as `*.h.8.*`, or a part of it; None: by `depth`.
        depth: Share of the blocks that lie before, in 0..1.

    Raises:
        UsageError: If there is no such block, or if the pattern fits none or several.
    """
    found = value_projections(model)
    if layer is None:
        return found[min(len(found) - 1, int(depth * len(found)))]
    if isinstance(layer, int) and not isinstance(layer, bool):
        if not -len(found) <= layer < len(found):
            raise UsageError(
                f"layer must be the number of a block, 0..{len(found) - 1} (or negative, from the "
                f"end); given: {layer}."
            )
        return found[layer]
    fitting = [one for one in found if fnmatchcase(one.name, str(layer))] or [
        one for one in found if str(layer) in one.name
    ]
    if len(fitting) != 1:
        names = ", ".join(one.name for one in fitting or found)
        raise UsageError(
            f"The layer {layer!r} fits {len(fitting)} value projections; one is wanted of: {names}."
        )
    return fitting[0]


def refusal(name: str, layer: int | str | None, model: nn.Module) -> str | None:
    """Why an editor cannot work on a model, as a sentence; None if it can."""
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return f"{name} edits causal language models; {type(model).__name__} has an encoder."
    try:
        projection(model, layer, 0.0)
    except UsageError as unfit:
        return str(unfit)
    return None


@dataclass
class Seen:
    """What went through a module in the last pass.

    Attributes:
        inputs: Its first argument.
        outputs: What it answered (of a block: the hidden states).
    """

    inputs: Tensor = field(default_factory=lambda: torch.empty(0))
    outputs: Tensor = field(default_factory=lambda: torch.empty(0))


@contextmanager
def watched(module: nn.Module) -> Iterator[Seen]:
    """Look at what goes through a module, without its gradient."""
    seen = Seen()

    def look(_: nn.Module, given: tuple[Any, ...], kwargs: dict[str, Any], made: Any) -> None:
        first = given[0] if given else kwargs["hidden_states"]
        seen.inputs = first.detach()
        seen.outputs = hidden(made).detach()

    handle = module.register_forward_hook(look, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def hidden(made: Any) -> Tensor:
    """The hidden states in what a block answers: itself, or the first of several things."""
    states: Tensor = made[0] if isinstance(made, tuple) else made
    return states


@torch.no_grad()
def second_moment(
    model: Any, module: nn.Module, batches: Iterable[Batch]
) -> Float[Tensor, "keys keys"]:
    """E[k k^T] of the inputs of a linear layer over the real tokens of some text, uncentred.

    Args:
        model: In evaluation mode.
        module: The layer.
        batches: With `input_ids` and, where rows are padded, `attention_mask`.

    Raises:
        UsageError: If there is no token.
    """
    total: Tensor | None = None
    count = 0
    with watched(module) as seen:
        for batch in batches:
            given = {k: batch[k] for k in ("input_ids", "attention_mask") if k in batch}
            model(**given, use_cache=False)
            keys = seen.inputs.flatten(0, 1)
            if "attention_mask" in batch:
                keys = keys[batch["attention_mask"].flatten().bool()]
            keys = keys.double()
            total = keys.T @ keys if total is None else total.addmm_(keys.T, keys)
            count += len(keys)
    if total is None or not count:
        raise UsageError("The second moment of keys needs text; there is none.")
    return total / count
