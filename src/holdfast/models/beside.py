"""Memories beside a model: what changes the outputs of one layer, and leaves its weights alone.

A memory sits on a layer by hooks, so that the model's weights and their names are as they were. It
decides when a prompt is read, and holds to that while an answer is written after it: a pass that
goes on from a cache is a continuation. Every use of the model (generation, probes, `diff`) then
gives the same answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from holdfast.errors import UsageError
from holdfast.memory.remembers import Remembers
from holdfast.models.projections import Projection, value_projections

_ON = "_holdfast_beside"


@dataclass
class Pass:
    """The forward pass at hand.

    Attributes:
        mask: Which tokens are real, `[rows, width]`; None: all.
        continued: Whether it goes on from a cache.
        chosen: Which change answers each row, -1 for none; None: not decided.
        plain: Outputs of the layer, in a pass that trains.
        edited: Outputs with the change, likewise.
    """

    mask: Tensor | None = None
    continued: bool = False
    chosen: Tensor | None = None
    plain: Tensor | None = None
    edited: Tensor | None = None


class Beside(Remembers):
    """A memory that sits on one layer of a model; see `SideMemory` and `Codebook`."""

    kind: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.passing = Pass()
        self.layer = ""
        self.record: dict[str, Any] = {}
        self._on: Projection | None = None
        self._handles: list[RemovableHandle] = []

    def changed(self, projection: Projection, keys: Tensor, outputs: Tensor) -> Tensor:
        """The layer's outputs in the pass at hand, as the memory would have them."""
        raise NotImplementedError

    def attach(self, model: Any, projection: Projection) -> None:
        """Take the seat on a layer.

        Raises:
            UsageError: If another memory sits on the model.
        """
        if beside(model) is not None:
            raise UsageError(
                "The model has a memory beside it already, with edits of its own: edit its base, "
                "or go on with those edits."
            )

        self.layer, self._on = projection.name, projection
        self._handles = [
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            projection.module.register_forward_hook(self._after),
        ]
        vars(model)[_ON] = self  # not as a submodule: the weights keep their names

    def detach(self, model: Any) -> None:
        """Leave the model as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._on = [], None
        vars(model).pop(_ON, None)

    def weight(self) -> Tensor:
        """The weight of the layer; 0 off a model."""
        if self._on is None:
            return torch.zeros(())
        found: Tensor = self._on.module.weight.detach().float()
        return found

    # Methods, not closures: a copy of the model gets a copy of its memory.

    def _before(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.passing = self.began(kwargs)

    def _after(self, _: nn.Module, given: tuple[Any, ...], outputs: Tensor) -> Tensor:
        assert self._on is not None
        return self.changed(self._on, given[0], outputs)

    def began(self, kwargs: dict[str, Any]) -> Pass:
        """What is known of a pass from what the model is given."""
        cache = kwargs.get("past_key_values")
        continued = cache is not None and cache.get_seq_length() > 0
        mask, ids = kwargs.get("attention_mask"), kwargs.get("input_ids")
        whole = isinstance(mask, Tensor) and ids is not None and mask.shape == ids.shape
        chosen = self.passing.chosen if continued else None
        return Pass(mask.bool() if whole and mask is not None else None, continued, chosen)


def beside(model: nn.Module) -> Beside | None:
    """The memory that sits on a model, or on what a PEFT model wraps."""
    for module in model.modules():
        found: Beside | None = vars(module).get(_ON)
        if found is not None:
            return found
    return None


def seat(model: nn.Module, layer: str) -> Projection:
    """The value projection called `layer`.

    Raises:
        UsageError: If the model has none of that name.
    """
    for found in value_projections(model):
        if found.name == layer:
            return found
    raise UsageError(f"{type(model).__name__} has no value projection called {layer!r}.")


def real(passing: Pass, like: Tensor) -> Tensor:
    """Which tokens are real in the pass at hand, `[rows, width]`."""
    if passing.mask is not None:
        return passing.mask
    return torch.ones(like.shape[:2], dtype=torch.bool, device=like.device)
