"""Copies of a model that teach it: one frozen as it was, one that follows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Literal

import torch
from torch import Tensor, nn

from holdfast.data import Batch
from holdfast.optim.averages import follow


class Snapshot(nn.Module):
    """The model as it was when `take` was last called; nothing at first.

    The copy is in evaluation mode whatever mode is set around it, and takes no gradients.

    Args:
        like: Answers with the model that will be copied; needed to rebuild the copy when a
            checkpoint is loaded.
        kept_for: What it counts as in a footprint: `"teachers"`, or `"use"` where predictions need
            it.
    """

    def __init__(
        self, like: Callable[[], nn.Module], kept_for: Literal["teachers", "use"] = "teachers"
    ) -> None:
        super().__init__()
        self._like, self.kept_for = like, kept_for
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


class Follower(Snapshot):
    """A copy that follows its model slowly, an average of its weights along the way.

    It runs in training mode, with batch statistics and dropout at work. What it counts of the
    data (running means and variances of batch normalisation) is its own: of the batches that it
    was asked about, not of those that the model was trained on.
    """

    def take(self) -> None:
        super().take()
        assert self.model is not None
        self.model.train()

    @torch.no_grad()
    def grow(self) -> None:
        """Take in what the model has gained since, which begins as the model's is now, and let go
        of what it has given up."""
        assert self.model is not None
        kept = self.model.state_dict()
        now = self._like().state_dict()
        if {n: t.shape for n, t in kept.items()} == {n: t.shape for n, t in now.items()}:
            return
        self.take()
        for name, tensor in self.model.state_dict().items():
            if name in kept:
                tensor[tuple(slice(length) for length in kept[name].shape)] = kept[name]

    def follow(self, share: float) -> None:
        """Move towards the model, keeping a share of one's own weights."""
        assert self.model is not None
        follow(list(self.model.parameters()), list(self._like().parameters()), share)

    @contextmanager
    def standing_in(self) -> Iterator[None]:
        """Within it the model has this copy's weights and statistics; after it, its own."""
        assert self.model is not None
        own, others = (
            [held for kind in (nn.Module.parameters, nn.Module.buffers) for held in kind(model)]
            for model in (self._like(), self.model)
        )
        with standing_in(own, others):
            yield


@contextmanager
def standing_in(own: Sequence[Tensor], others: Sequence[Tensor]) -> Iterator[None]:
    """Within it a model's tensors hold what others hold; after it, their own."""
    kept = [tensor.data for tensor in own]
    try:
        for tensor, other in zip(own, others, strict=True):
            tensor.data = other.data
        yield
    finally:
        for tensor, data in zip(own, kept, strict=True):
            tensor.data = data
