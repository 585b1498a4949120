"""Chance that is one's own: PyTorch's global random state, held apart from everybody else's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class GlobalChance:
    """The global random state of one learner, in force only within `mine`.

    Dropout and augmentation draw from PyTorch's global state. A learner that shared it would
    change with whatever else draws from it, and would change that in turn.

    Args:
        seed: Of the state at first.
        device: Whose state is held beside the CPU's.

    Example:
        >>> chance = GlobalChance(0, torch.device("cpu"))
        >>> with chance.mine():
        ...     first = torch.rand(1)
        >>> with chance.mine():
        ...     second = torch.rand(1)
        >>> generator = torch.Generator().manual_seed(0)
        >>> torch.equal(torch.cat([first, second]), torch.rand(2, generator=generator))
        True
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        self._cuda = [device] if device.type == "cuda" else []
        self._within = False
        with torch.random.fork_rng(self._cuda):
            torch.manual_seed(seed)
            self._states = self._now()

    @contextmanager
    def mine(self) -> Iterator[None]:
        """Within it the global state is this one; after it, what it was before."""
        with torch.random.fork_rng(self._cuda):
            torch.set_rng_state(self._states["cpu"])
            if self._cuda:
                torch.cuda.set_rng_state(self._states["cuda"], self.device)
            self._within = True
            try:
                yield
            finally:
                self._states, self._within = self._now(), False

    def state_dict(self) -> dict[str, Tensor]:
        return self._now() if self._within else self._states

    def load_state_dict(self, states: Mapping[str, Tensor]) -> None:
        self._states = dict(states)

    def _now(self) -> dict[str, Tensor]:
        states = {"cpu": torch.get_rng_state()}
        if self._cuda:
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        return states
