"""Linear readouts of features, solved for."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.errors import above_zero


@torch.enable_grad()
def logistic_regression(
    features: Float[Tensor, "examples width"],
    labels: Int[Tensor, " examples"],
    classes: int,
    ridge: float,
    bias: bool = True,
) -> tuple[Float[Tensor, "classes width"], Float[Tensor, " classes"] | None]:
    """The linear readout that suits the labels best.

        W, b = argmin  1/n sum_i CE(W x_i + b, y_i) + ridge / 2 (|W|^2 + |b|^2)

    Strictly convex, so there is one minimum; found by L-BFGS in double precision.

    Args:
        features: x; no gradients are taken to them.
        labels: y, below `classes`.
        classes: Rows of W; some may have no examples.
        ridge: Above 0.
        bias: Whether there is a b.

    Returns:
        W and b, in the features' type; None for b if there is none.

    Raises:
        UsageError: If the ridge is not above 0.

    Example:
        >>> x, y = torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1])
        >>> weight, bias = logistic_regression(x, y, 2, ridge=0.1)
        >>> (x @ weight.T + bias).argmax(1).tolist()
        [0, 1]
    """
    above_zero(ridge=ridge)
    x = features.detach().double()
    if bias:
        x = torch.cat([x, x.new_ones(len(x), 1)], 1)
    rows = x.new_zeros(classes, x.shape[1]).requires_grad_()
    solver = torch.optim.LBFGS(
        [rows],
        max_iter=1000,
        tolerance_grad=1e-8,
        tolerance_change=1e-14,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(x @ rows.T, labels) + ridge / 2 * rows.square().sum()
        loss.backward()
        return loss

    solver.step(objective)
    found = rows.detach().to(features.dtype)
    if bias:
        return found[:, :-1].contiguous(), found[:, -1].contiguous()
    return found, None
