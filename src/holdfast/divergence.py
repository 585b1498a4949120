"""Losses and weights that are no longer numbers, found without a wait at every step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from holdfast.errors import Diverged

HELD = 50
"""Losses looked at together."""


class LossWatch:
    """Keeps losses for a while, then looks at all of them at once.

    A loss that was not finite is so found up to `HELD` steps late, and still named by its step.

    Attributes:
        looks: How often losses have been looked at.
        mean: Of the losses looked at last.
    """

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.looks, self.mean = 0, float("nan")

    def add(self, loss: Tensor) -> bool:
        """Keep a loss; True when it is time to `check`."""
        self.losses.append(loss.detach())
        return len(self.losses) == HELD

    def check(self, step: int, experience: int, checkpoint: str | None) -> None:
        """Look at the losses kept.

        Args:
            step: The number of steps made in the experience, the last of them just kept.
            experience: Its index.
            checkpoint: The last good one, for the message.

        Raises:
            Diverged: If one of them is NaN or infinite.
        """
        if not self.losses:
            return
        losses, self.losses = torch.stack(self.losses), []
        finite = losses.isfinite()
        self.looks, self.mean = self.looks + 1, float(losses.mean())
        if not bool(finite.all()):
            bad = int((~finite).nonzero()[0])
            at = step - len(losses) + bad
            raise _diverged(f"The loss became {float(losses[bad])}", at, experience, checkpoint)


def check_weights(
    weights: Iterable[Tensor], step: int, experience: int, checkpoint: str | None
) -> None:
    """Raise `Diverged` if a weight is NaN or infinite."""
    finite = [weight.detach().isfinite().all() for weight in weights]
    if finite and not bool(torch.stack(finite).all()):
        raise _diverged("A weight became NaN or infinite", step, experience, checkpoint)


def _diverged(what: str, step: int, experience: int, checkpoint: str | None) -> Diverged:
    return Diverged(
        f"{what} at step {step} of experience {experience}; last good checkpoint: "
        f"{checkpoint or 'none'}. "
        "A smaller learning rate (or a weaker penalty) is the usual remedy."
    )
