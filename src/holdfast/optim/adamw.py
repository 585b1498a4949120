"""AdamW as language models are trained with: only matrices decay."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.optim import Optimizer


def adamw(
    lr: float,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> Callable[[list[nn.Parameter]], Optimizer]:
    """From a list of parameters to AdamW; vectors (norms, biases) do not decay.

    Args:
        lr: Learning rate.
        weight_decay: Decoupled from the gradient.
        betas: Of the moving means of the gradient and of its square.
        eps: Added to the root of the second.

    Source: Loshchilov and Hutter, "Decoupled weight decay regularization" (2019).

    Example:
        >>> optimizer = adamw(1e-3, weight_decay=0.1)(list(nn.Linear(2, 2).parameters()))
        >>> [group["weight_decay"] for group in optimizer.param_groups]
        [0.1, 0.0]
    """

    def build(parameters: list[nn.Parameter]) -> Optimizer:
        matrices = [p for p in parameters if p.dim() > 1]
        vectors = [p for p in parameters if p.dim() <= 1]
        groups = [
            {"params": matrices, "weight_decay": weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)

    return build
