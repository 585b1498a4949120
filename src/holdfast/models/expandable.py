"""Backbones that grow: a shared part, and several specialised ones side by side on top of it.

The features are those of all specialised parts, one after another, the newest last. Whole backbones
side by side are the special case in which nothing is shared.

Which part of a backbone is its last stage, `stages` says: `staged()` of a module that has it, or
the order of a `nn.Sequential`. Stages in turn answer as the backbone does.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.errors import UsageError
from holdfast.models.heads import GrowingHead


class Expandable(nn.Module):
    """A backbone whose newest part alone is trained; all others stay as they are.

        features(x) = [part_1(z), ..., part_t(z)],   z = shared(x)

    Older parts take no gradients and stay in evaluation mode, whatever mode is set around them:
    neither their weights nor their statistics change. With their inputs they take part in no
    backward pass, unless what is shared is trained on.

    Args:
        first: The first specialised part, or a whole backbone.
        shared: What comes before; None: nothing. Trained with the first part.
        train_shared: Whether the shared part is trained after the first expansion too.

    A part may have a head of its own while it is trained (`head_for_newest`). Loading a state adopts
    its number of parts and its head.

    Example:
        >>> backbone = Expandable(nn.Linear(3, 2))
        >>> backbone.grow()
        >>> backbone(torch.zeros(5, 3)).shape
        torch.Size([5, 4])
        >>> sum(p.numel() for p in backbone.parameters() if p.requires_grad)
        8
    """

    def __init__(
        self, first: nn.Module, shared: nn.Module | None = None, train_shared: bool = False
    ) -> None:
        super().__init__()
        self.shared = nn.Identity() if shared is None else shared
        self.parts = nn.ModuleList([first])
        self.auxiliary = nn.ModuleDict()
        self.train_shared = train_shared

    @property
    def newest(self) -> nn.Module:
        return self.parts[-1]

    def grow(self) -> None:
        """Add a part like the newest; the others are frozen from now on."""
        part = deepcopy(self.newest)
        self.newest.requires_grad_(False)
        if not self.train_shared:
            self.shared.requires_grad_(False)
        self.parts.append(part)
        self.train(self.training)

    def head_for_newest(self, features: int, classes: int) -> None:
        """Give the newest part a linear head of its own, in place of the last one's."""
        head = GrowingHead(features, classes).to(next(self.parameters()).device)
        self.auxiliary.clear()  # another name tells a kept optimizer that it is another head
        self.auxiliary[str(len(self.parts))] = head

    @torch.no_grad()
    def start_from_last(self) -> None:
        """Give the newest part the weights and statistics of the one before it."""
        if len(self.parts) > 1:
            self.newest.load_state_dict(self.parts[-2].state_dict())

    def train(self, mode: bool = True) -> Expandable:
        super().train(mode)
        for part in self.parts[:-1]:
            part.eval()
        if len(self.parts) > 1 and not self.train_shared:
            self.shared.eval()
        return self

    def forward(self, x: Tensor) -> Float[Tensor, "examples width"]:
        shared = self.shared(x)
        return torch.cat([part(shared) for part in self.parts], 1)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        held = [key[len(prefix) :].split(".") for key in state_dict if key.startswith(prefix)]
        parts = {name[1] for name in held if name[0] == "parts"}
        while len(parts) > len(self.parts):
            self.grow()
        if parts:
            del self.parts[len(parts) :]
        heads = {name[1] for name in held if name[0] == "auxiliary"}
        if heads != set(self.auxiliary):
            self.auxiliary.clear()
            for name in heads:  # it adopts the state's shape
                self.auxiliary[name] = GrowingHead(0).to(next(self.parameters()).device)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def split(backbone: nn.Module) -> tuple[nn.Module, nn.Module]:
    """A backbone in two: all stages but the last, and the last. Weights are shared with it.

    Of one stage there is nothing before the last but its inputs.

    Raises:
        UsageError: If the backbone does not tell its stages.

    Example:
        >>> shared, last = split(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
        >>> shared
        Sequential(
          (0): Linear(in_features=4, out_features=3, bias=True)
          (1): ReLU()
        )
    """
    *before, last = stages(backbone)
    return before[0] if len(before) == 1 else nn.Sequential(*before), last


def stages(backbone: nn.Module) -> list[nn.Module]:
    """The stages of a backbone, from its inputs to its features. Weights are shared with it.

    Of a `nn.Sequential`, every child with a weight matrix or kernels begins one, and what has none,
    such as activations and norms, belongs to the stage before it, or to the first. Where it has a
    single such child, that one's own stages count.

    Args:
        backbone: With a method `staged()` that answers with modules which in turn answer as it
            does, or a `nn.Sequential`.

    Raises:
        UsageError: If it is neither, or has no layers.
    """
    if hasattr(backbone, "staged"):
        told: list[nn.Module] = backbone.staged()
        return told
    if not isinstance(backbone, nn.Sequential):
        raise UsageError(
            f"{type(backbone).__name__} does not say where its last stage begins: give it a method "
            "staged() that answers with its stages, modules which in turn answer as it does, or "
            "make it a nn.Sequential."
        )
    layered = [child for child in backbone if _has_layer(child)]
    if not layered:
        raise UsageError(f"{type(backbone).__name__} has no layers, and so no last stage.")
    found: list[list[nn.Module]] = [[]]
    for child in backbone:
        inner = len(layered) == 1 and child is layered[0] and any(True for _ in child.children())
        for place, part in enumerate(stages(child) if inner else [child]):
            if place or (child in layered and child is not layered[0]):
                found.append([])
            found[-1].append(part)
    return [parts[0] if len(parts) == 1 else nn.Sequential(*parts) for parts in found]


def _has_layer(module: nn.Module) -> bool:
    """Whether a weight matrix or kernels are in it, which norms and scales have not."""
    return any(parameter.dim() >= 2 for parameter in module.parameters())
