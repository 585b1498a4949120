"""Where a loss comes to rest and where it leaps again, found on the way and without waiting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from holdfast.memory.remembers import Remembers

Event = Literal["plateau", "peak"]


class Plateaus(Remembers):
    """Says when a loss has come to rest, once for every time that it does.

    With mu and sigma the mean and the deviation of the latest `window` losses,

        plateau    mu < mean  and  sigma < deviation;  then mu* <- mu, sigma* <- sigma
        peak       mu > mu* + sigma*

    and after a plateau another one counts only once there has been a peak.

    Args:
        window: Losses looked at together.
        mean: Below which they must lie.
        deviation: Below which they must vary.

    Example:
        >>> plateaus = Plateaus(window=2, mean=0.5, deviation=0.1)
        >>> [plateaus.see(loss) for loss in (1.0, 0.3, 0.2, 0.2, 2.0, 0.2, 0.2)]
        [None, None, 'plateau', None, 'peak', None, 'plateau']
    """

    remembers = ("losses", "resting", "level")

    def __init__(self, window: int, mean: float, deviation: float) -> None:
        super().__init__()
        self.window, self.mean, self.deviation = window, mean, deviation
        self.losses: list[float] = []
        self.resting = False  # since a plateau, until the next peak
        self.level = 0.0  # mu* + sigma*

    def see(self, loss: float) -> Event | None:
        """Look at the next loss."""
        self.losses = [*self.losses, loss][-self.window :]
        if len(self.losses) < self.window:
            return None
        mean = sum(self.losses) / self.window
        deviation = (sum((one - mean) ** 2 for one in self.losses) / self.window) ** 0.5
        if self.resting:
            if mean > self.level:
                self.resting = False
                return "peak"
        elif mean < self.mean and deviation < self.deviation:
            self.resting, self.level = True, mean + deviation
            return "plateau"
        return None


@dataclass
class _OnItsWay:
    """A number that is being copied from a device."""

    host: Tensor
    arrived: Any = None

    def read(self) -> float:
        if self.arrived is not None:
            self.arrived.synchronize()
        return float(self.host)


class Late(Remembers):
    """Numbers of a device, each read when the next one is there.

    Reading a number of a GPU at once waits for all that has been asked of it. A copy that was begun
    a step ago has arrived by then, and the GPU goes on with what was asked since.

    Example:
        >>> late = Late()
        >>> late.exchange(torch.tensor(2.0)), late.exchange(torch.tensor(3.0))
        (None, 2.0)
    """

    remembers = ("waiting",)

    def __init__(self) -> None:
        super().__init__()
        self._sent: _OnItsWay | None = None

    def exchange(self, number: Tensor) -> float | None:
        """Begin to copy a number, and read the one before it; None if there is none."""
        before, number = self.waiting, number.detach()
        if number.device.type == "cuda":
            host = torch.empty((), dtype=number.dtype, pin_memory=True)
            host.copy_(number, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
            self._sent = _OnItsWay(host, arrived)
        else:
            self._sent = _OnItsWay(number.clone())
        return before

    @property
    def waiting(self) -> float | None:
        """The number that will be read next."""
        return None if self._sent is None else self._sent.read()

    @waiting.setter
    def waiting(self, number: float | None) -> None:
        self._sent = None
        if number is not None:
            self._sent = _OnItsWay(torch.tensor(number, dtype=torch.float64))
