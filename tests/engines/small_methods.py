"""Small methods, written here, that act at single points of a Trainer's step."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from holdfast.method import ALL_KINDS, Method, Tags


class Pull(Method):
    """Pulls every weight to zero: half the squared norm, `strength` times."""

    tags = Tags("penalty", "", "", scenarios=ALL_KINDS)
    reads_outputs = False

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        self.strength = strength

    def loss(self, learner: Any, batch: Any, outputs: Any, loss: Tensor) -> Tensor:
        return loss + self.strength / 2 * sum(p.square().sum() for p in learner.parameters)


class Half(Method):
    """Trains the matrices whose number, drawn from a seed of its own, is odd; counts updates."""

    tags = Tags("sparse", "", "", scenarios=ALL_KINDS)
    remembers = ("updates",)

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed, self.updates = seed, 0

    def expand(self, learner: Any, experience: Any) -> None:
        generator = torch.Generator().manual_seed(self.seed + experience.index)
        named = list(learner.model.named_parameters())
        drawn = torch.randperm(len(named), generator=generator) % 2
        for (_, parameter), trained in zip(named, drawn.tolist(), strict=True):
            parameter.requires_grad_(bool(trained))

    def step(self, learner: Any) -> None:
        self.updates += 1


class Rows(Method):
    """Lets the first half of every matrix's rows move only, by their gradients."""

    tags = Tags("sparse", "", "", scenarios=ALL_KINDS)

    def gradients(self, learner: Any) -> None:
        for parameter in learner.parameters:
            if parameter.grad is not None:
                parameter.grad[len(parameter) // 2 :] = 0


class Average(Method):
    """Trains as it is, serves the average of all weights so far."""

    tags = Tags("correction", "", "", scenarios=ALL_KINDS)

    def inherit(self, learner: Any) -> None:
        self.count = 0
        self.sums = {name: torch.zeros_like(p) for name, p in learner.named}

    def step(self, learner: Any) -> None:
        self.count += 1
        for name, parameter in learner.named:
            self.sums[name] += parameter.detach()

    @contextmanager
    def serving(self, learner: Any) -> Any:
        kept = {name: p.detach().clone() for name, p in learner.named}
        for name, parameter in learner.named:
            parameter.data.copy_(self.sums[name] / self.count)
        yield
        for name, parameter in learner.named:
            parameter.data.copy_(kept[name])


class First(Method):
    """Trains on the first rows only."""

    tags = Tags("selection", "", "", scenarios=ALL_KINDS)

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def select(self, learner: Any, table: Any) -> Any:
        return table.take(slice(0, self.rows))


class Witness(Method):
    """Writes down every moment at which it acts."""

    tags = Tags("bound", "", "", scenarios=ALL_KINDS)

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int, int, int]] = []

    def _write(self, what: str, learner: Any) -> None:
        self.seen.append((what, learner.index, learner.epoch, learner.step))

    def setup(self, learner: Any) -> None:
        self._write("setup", learner)

    def inherit(self, learner: Any) -> None:
        self._write("inherit", learner)

    def expand(self, learner: Any, experience: Any) -> None:
        self._write("expand", learner)

    def begin(self, learner: Any, experience: Any) -> None:
        self._write("begin", learner)

    def batch(self, learner: Any, batch: Any) -> Any:
        self._write("batch", learner)
        return batch

    def loss(self, learner: Any, batch: Any, outputs: Any, loss: Any) -> Any:
        self._write("loss", learner)
        return loss

    def gradients(self, learner: Any) -> None:
        self._write("gradients", learner)

    def step(self, learner: Any) -> None:
        self._write("step", learner)

    def end(self, learner: Any, experience: Any) -> None:
        self._write("end", learner)
