"""Heads: from features to class logits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast.errors import UsageError
from holdfast.memory.discriminant import Discriminant
from holdfast.memory.prototypes import Prototypes
from holdfast.memory.ridge import RandomRidge


class LinearHead(nn.Linear):
    """A linear layer over all classes from the start."""


class GrowingHead(nn.Module):
    """A linear head that gains rows as classes arrive; old rows stay as they are.

    Args:
        features: Width of the features.
        classes: Rows at first.
        bias: Whether there is one.

    New rows are drawn as PyTorch draws a linear layer's. Loading a state adopts its number of rows
    and of features.

    Example:
        >>> head = GrowingHead(8, 2)
        >>> head.grow(4)
        >>> head.weight.shape
        torch.Size([4, 8])
    """

    def __init__(self, features: int, classes: int = 0, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(0, features))
        self.bias = nn.Parameter(torch.empty(0)) if bias else None
        self.grow(classes)

    @classmethod
    def of(cls, linear: nn.Linear) -> GrowingHead:
        """A head of a linear layer's own weights."""
        head = cls(linear.in_features, bias=linear.bias is not None)
        for name, parameter in linear.named_parameters():
            setattr(head, name, parameter)
        return head

    @property
    def classes(self) -> int:
        return len(self.weight)

    def grow(self, classes: int) -> None:
        """Have `classes` rows; fewer than there are is no change."""
        missing = classes - self.classes
        if missing <= 0:
            return
        bound = 1 / math.sqrt(self.weight.shape[1])
        fresh = torch.empty(missing, self.weight.shape[1]).uniform_(-bound, bound)
        self.weight = nn.Parameter(torch.cat([self.weight.detach(), fresh.to(self.weight)]))
        if self.bias is not None:
            shift = torch.empty(missing).uniform_(-bound, bound)
            self.bias = nn.Parameter(torch.cat([self.bias.detach(), shift.to(self.bias)]))

    def widen(self, features: int) -> None:
        """Take in `features` features; weights of those there were stay, the others' are drawn."""
        missing = features - self.weight.shape[1]
        bound = 1 / math.sqrt(features)
        fresh = torch.empty(self.classes, missing).uniform_(-bound, bound)
        self.weight = nn.Parameter(torch.cat([self.weight.detach(), fresh.to(self.weight)], 1))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all rows anew."""
        bound = 1 / math.sqrt(self.weight.shape[1])
        self.weight.uniform_(-bound, bound)
        if self.bias is not None:
            self.bias.uniform_(-bound, bound)

    def forward(
        self, features: Float[Tensor, "examples width"]
    ) -> Float[Tensor, "examples classes"]:
        return F.linear(features, self.weight, self.bias)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):  # type: ignore[no-untyped-def]
        shape = state_dict.get(prefix + "weight", self.weight).shape
        if shape != self.weight.shape:
            self.weight = _resized(self.weight, shape)
            self.bias = None if self.bias is None else _resized(self.bias, shape[:1])
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _resized(parameter: nn.Parameter, shape: torch.Size) -> nn.Parameter:
    empty = parameter.new_empty(shape)
    return nn.Parameter(empty, requires_grad=parameter.requires_grad)


class CosineHead(nn.Module):
    """Scaled cosine similarity between features and one vector a class, growing like a linear head.

    Args:
        features: Width of the features.
        classes: Rows at first.
        scale: Initial temperature factor; trained along if `learn_scale`.

    Source: Hou et al., "Learning a unified classifier incrementally via rebalancing" (2019).
    """

    def __init__(
        self, features: int, classes: int = 0, scale: float = 10.0, learn_scale: bool = True
    ) -> None:
        super().__init__()
        self.rows = GrowingHead(features, classes, bias=False)
        self.first_scale = scale
        self.scale = nn.Parameter(torch.tensor(scale), requires_grad=learn_scale)

    @property
    def weight(self) -> nn.Parameter:
        return self.rows.weight

    @property
    def classes(self) -> int:
        return self.rows.classes

    def grow(self, classes: int) -> None:
        self.rows.grow(classes)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Put the scale back to what it was at first; the rows draw themselves anew."""
        self.scale.fill_(self.first_scale)

    def forward(
        self, features: Float[Tensor, "examples width"]
    ) -> Float[Tensor, "examples classes"]:
        return self.scale * F.linear(F.normalize(features), F.normalize(self.weight))


class MultiHead(nn.Module):
    """One linear head a task, side by side: logits over the classes of all tasks so far.

    With a `task` for every example, logits of other tasks' heads are minus infinity.

    Args:
        features: Width of the features.
        task_classes: Number of classes of every task, in order; task k's classes are numbered
            after those of the tasks before it.
    """

    def __init__(self, features: int, task_classes: list[int]) -> None:
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(features, count) for count in task_classes])
        owner = [task for task, count in enumerate(task_classes) for _ in range(count)]
        self.owner: Tensor
        self.register_buffer("owner", torch.tensor(owner))

    @property
    def classes(self) -> int:
        return len(self.owner)

    def forward(
        self,
        features: Float[Tensor, "examples width"],
        task: Int[Tensor, " examples"] | None = None,
    ) -> Float[Tensor, "examples classes"]:
        logits = torch.cat([head(features) for head in self.heads], 1)
        if task is None:
            return logits
        return logits.masked_fill(self.owner != task[:, None], -torch.inf)


CLASS_ROWS = (nn.Linear, GrowingHead, CosineHead, MultiHead)
"""Heads in which every class has a row of its own."""


def class_rows(head: nn.Module, classes: Sequence[int]) -> list[tuple[nn.Parameter, Tensor]]:
    """A head's parameters, each with a mask of what belongs to some classes.

    Args:
        head: One of `CLASS_ROWS`.
        classes: Of which the rows are wanted.

    Returns:
        Masks are bool and broadcast against their parameter; all False where a parameter belongs
        to all classes alike (the scale of a cosine head).

    Example:
        >>> head = GrowingHead(2, 3)
        >>> [mask.flatten().tolist() for _, mask in class_rows(head, [0, 2])]
        [[True, False, True], [True, False, True]]
    """
    if isinstance(head, MultiHead):
        parts: list[nn.Module] = list(head.heads)
    else:
        parts = [head]
    found: list[tuple[nn.Parameter, Tensor]] = []
    start = 0
    for part in parts:
        rows: int = len(part.weight)  # type: ignore[arg-type]
        for parameter in part.parameters():
            wanted = torch.tensor([start + row in classes for row in range(rows)])
            if not parameter.dim():
                wanted = torch.tensor(False)
            elif parameter.dim() > 1:
                wanted = wanted.unsqueeze(1)
            found.append((parameter, wanted.to(parameter.device)))
        start += rows
    return found


HEADS = ("linear", "growing", "cosine", "multi", "prototype", "discriminant", "ridge")


def build_head(
    kind: str, features: int, classes: int, task_classes: list[int] | None = None
) -> nn.Module:
    """A head by name; growing and cosine heads start empty.

    Raises:
        UsageError: If there is no such head.
    """
    if kind == "linear":
        return LinearHead(features, classes)
    if kind == "growing":
        return GrowingHead(features)
    if kind == "cosine":
        return CosineHead(features)
    if kind == "multi":
        return MultiHead(features, task_classes or [classes])
    if kind == "prototype":
        return Prototypes(features, classes)
    if kind == "discriminant":
        return Discriminant(features, classes)
    if kind == "ridge":
        return RandomRidge(features, classes)
    raise UsageError(f"There is no head {kind!r}. Accepted: {', '.join(HEADS)}.")
