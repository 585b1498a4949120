"""A frozen copy of a model: the teacher of distillation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.data import Batch


class Snapshot(nn.Module):
    """The model as it was when `take` was last called; nothing at first.

    The copy is in evaluation mode whatever mode is set around it, and takes no gradients.

    Args:
        like: Answers with the model that will be copied; needed to rebuild the copy when a
            checkpoint is loaded.
    """

    def __init__(self, like: Callable[[], nn.Module]) -> None:
        super().__init__()
        self._like = like
        self.model: nn.Module | None = None

    @property
    def taken(self) -> bool:
        return self.model is not None

    def take(self) -> None:
        """Copy the model as it is now."""
        self.model = deepcopy(self._like()).requires_grad_(False).eval()
        for part in self.model.modules():  # a `forward` that a library put on the original, bound
            part.__dict__.pop("forward", None)  # to it, would answer for the original

    def train(self, mode: bool = True) -> Snapshot:
        return self

    @torch.no_grad()
    def outputs(self, forward: Callable[[nn.Module, Batch], Tensor], batch: Batch) -> Tensor:
        """The copy's outputs on a batch, through an objective's `forward`."""
        assert self.model is not None
        return forward(self.model, batch)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        held = any(key.startswith(prefix + "model.") for key in state_dict)
        if held and self.model is None:
            self.take()
        if not held:
            self.model = None
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
