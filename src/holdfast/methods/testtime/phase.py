"""When adaptation begins, and to what it is confined.

A model that comes knowing something (`Learner(pretrained=True)`, as `TestTimeAdapter` has it) is
adapted from the first batch. In an ordinary run the first experience is the source: it is learned
with its labels, as if there were no method, and what comes after it is adapted to without any.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import nn

from holdfast.errors import UsageError, above_zero

if TYPE_CHECKING:
    from holdfast.learner import Learner, MakeOptimizer

Rule = Literal["adam", "sgd"]

_RULES: dict[str, Any] = {
    "adam": partial(torch.optim.Adam, betas=(0.9, 0.999), weight_decay=0.0),
    "sgd": partial(torch.optim.SGD, momentum=0.9),
}


def adapting(learner: Learner) -> bool:
    """Whether the experience at hand is adapted to, and not learned as a source."""
    return learner.pretrained or learner.index > 0


def optimizer_of(rule: Rule, lr: float) -> MakeOptimizer:
    """Adam or SGD with momentum 0.9, both without decay.

    Raises:
        UsageError: If there is no such rule, or the rate is not above 0.
    """
    if rule not in get_args(Rule):
        raise UsageError(f"optimizer must be one of {', '.join(get_args(Rule))}; given: {rule!r}.")
    above_zero(lr=lr)
    return partial(_RULES[rule], lr=lr)


def confine(learner: Learner, chosen: Iterable[nn.Parameter], optimizer: MakeOptimizer) -> None:
    """Let only `chosen` be trained from now on, by an optimizer of their own."""
    kept = {id(parameter) for parameter in chosen}
    for parameter in learner.model.parameters():
        parameter.requires_grad_(id(parameter) in kept)
        if not parameter.requires_grad:
            parameter.grad = None
    if learner.make_optimizer is not optimizer:
        learner.make_optimizer, learner.named = optimizer, []  # no state of the source's carries on
