"""Small quadratic programmes with a bound, solved where the data are.

By an interior point: every round is one factorisation of a matrix of a hundred rows or so, the
number of rounds hardly depends on the problem, and a round after the last one changes nothing. So a
device is given a number of rounds and is never waited for.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

ROUNDS = 32
"""A dozen are usual; no more than 27 were seen, in a hundred variables whose matrix has few
ranks."""

AT_HAND = ("cpu",)
"""Where a value is known without waiting for it."""

SETTLED = 1e-20
"""Mean product of distance and slope, in units of the problem's own, below which nothing moves."""


def least_above(
    matrix: Float[Tensor, "n n"],
    vector: Float[Tensor, " n"],
    lower: float = 0.0,
    rounds: int = ROUNDS,
) -> Float[Tensor, " n"]:
    """The v >= lower with the least 1/2 v'Av + b'v.

    Args:
        matrix: A, symmetric and positive definite.
        vector: b.
        lower: The bound, one for all variables.
        rounds: At most; on a processor the search ends as soon as nothing moves.

    Returns:
        v, in double precision.

    Source: Mehrotra, "On the implementation of a primal-dual interior point method" (1992).

    Example:
        >>> v = least_above(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([-4.0, 3.0]))
        >>> v.round(decimals=6).tolist()
        [2.0, 0.0]
    """
    a = matrix.double()
    b = vector.double() + lower * a.sum(1)  # of u, the distance from the bound
    scale, size = a.diagonal().amax(), b.abs().amax().clamp(min=torch.finfo(b.dtype).tiny)
    a, b = a / scale, b / size
    u, w = torch.ones_like(b), torch.ones_like(b)  # w: the slope Au + b, which may not be negative
    for _ in range(rounds):
        product, missing = u * w, a @ u + b - w
        mean = product.mean()
        moving = mean > SETTLED
        if a.device.type in AT_HAND and not moving:
            break
        factor, _ = torch.linalg.cholesky_ex(a + (w / u).diag())
        du, dw, far = _towards(torch.zeros_like(b), u, w, product, missing, factor)
        ahead = ((u + far * du) * (w + far * dw)).mean()
        aim = (ahead / mean) ** 3 * mean - du * dw
        du, dw, far = _towards(aim, u, w, product, missing, factor)
        far = torch.where(moving, 0.99 * far, 0.0)
        u, w = u + far * du, w + far * dw
    return torch.where(u > w, u, 0.0) * (size / scale) + lower


def _towards(
    aim: Tensor, u: Tensor, w: Tensor, product: Tensor, missing: Tensor, factor: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Newton's direction to products `aim`, and how far along it, up to 1, both stay positive."""
    du = torch.cholesky_solve((aim / u - w - missing)[:, None], factor)[:, 0]
    dw = (aim - product - w * du) / u
    fastest = torch.maximum(-du / u, -dw / w).amax()
    return du, dw, 1 / fastest.clamp(min=1)
