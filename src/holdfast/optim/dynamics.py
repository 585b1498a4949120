"""How much the modules of a network change, epoch by epoch: which are made anew by every task.

    D_m(t, n) = mean over the weights of module m of |theta after epoch n of task t - before it|

A module whose D leaps when the task switches is specific to tasks; one that hardly moves once the
first is learned is shared by them.

Source: Zhao, Zhou, Long, Jiang and Zhang, "Does continual learning equally forget all parameters?"
(2023).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from holdfast.errors import UsageError
from holdfast.memory.parameters import ParameterStore
from holdfast.memory.remembers import Remembers
from holdfast.models.groups import Group

Score = Literal["leap", "change"]

STATISTICS = "statistics"
"""What a normalisation's running mean and variance are called, before the group's name."""


class Dynamics(Remembers):
    """Measures D of every group, and of the running statistics of those that have some.

    `begin` at the start of a task, `measure` after each of its epochs, `end` after the last.

    Attributes:
        names: Of what is measured, in order.
        tasks: The task of every measurement.
        changes: D, one row a measurement and one column a name.
        moves: The same from the end of a task to that of the next, one row a switch.
    """

    remembers = ("names", "tasks")
    kept_for = "learning"
    changes: Tensor | None
    moves: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.tasks: list[int] = []
        self.before, self.ended = ParameterStore(), ParameterStore()
        self.register_buffer("changes", None)
        self.register_buffer("moves", None)

    def begin(self, groups: Mapping[str, Group]) -> None:
        """Note where the weights are: an epoch is going to move them."""
        self.before.put(_flat(groups))

    @torch.no_grad()
    def measure(self, groups: Mapping[str, Group], task: int) -> None:
        """Note how far an epoch has moved them."""
        self.names = list(_parts(groups))
        self.changes = _with_row(self.changes, self._away(groups, self.before))
        self.tasks.append(task)
        self.begin(groups)

    @torch.no_grad()
    def end(self, groups: Mapping[str, Group]) -> None:
        """Note how far a task has moved them, if it is not the first."""
        if self.ended:
            self.moves = _with_row(self.moves, self._away(groups, self.ended))
        self.ended.put(_flat(groups))

    @torch.no_grad()
    def pass_over(self, groups: Mapping[str, Group], was: Sequence[Tensor]) -> None:
        """Leave out what has moved the weights since they were `was`, in the order of `tensors`."""
        named = _flat(groups)
        away = torch._foreach_sub([t for _, t in named], list(was))
        for store in (self.before, self.ended):
            if store:
                torch._foreach_add_(store.get(named), away)

    def history(self) -> dict[str, list[tuple[int, float]]]:
        """Of everything measured, task and D, epoch by epoch."""
        rows = self.changes.tolist() if self.changes is not None else []
        return {
            name: [(task, row[k]) for task, row in zip(self.tasks, rows, strict=True)]
            for k, name in enumerate(self.names)
        }

    def scores(self, score: Score = "leap") -> dict[str, float]:
        """How specific to tasks each group is; empty before the first switch.

        Args:
            score: `"leap"`: D in the first epoch of a task over D in the last epoch of the task
                before, mean over switches. `"change"`: how far the weights at the end of a task
                are from those at the end of the one before, mean over switches.

        Raises:
            UsageError: If there is no such score.
        """
        if score not in ("leap", "change"):
            raise UsageError(f"score must be 'leap' or 'change'; given: {score!r}.")
        rows = self.moves if score == "change" else self._leaps()
        if rows is None or not len(rows):
            return {}
        means = rows.mean(0).tolist()
        return {
            name: mean
            for name, mean in zip(self.names, means, strict=True)
            if not name.startswith(STATISTICS)
        }

    def _leaps(self) -> Tensor | None:
        if self.changes is None:
            return None
        starts = [k for k in range(1, len(self.tasks)) if self.tasks[k] != self.tasks[k - 1]]
        first = self.changes[starts]
        last = self.changes[[k - 1 for k in starts]]
        return torch.where(first > 0, first / last, 0.0)  # what does not move leaps nowhere

    def _away(self, groups: Mapping[str, Group], store: ParameterStore) -> Tensor:
        """Mean absolute distance from what is stored, one number a part."""
        named = _flat(groups)
        away = torch._foreach_sub([tensor for _, tensor in named], store.get(named))
        lengths = torch.stack(torch._foreach_norm(away, 1))
        counts = lengths.new_tensor([float(tensor.numel()) for _, tensor in named])
        sizes = [len(part) for part in _parts(groups).values()]
        return torch.stack(
            [
                length.sum() / count.sum()
                for length, count in zip(lengths.split(sizes), counts.split(sizes), strict=True)
            ]
        )


def tensors(groups: Mapping[str, Group]) -> list[Tensor]:
    """Everything that is measured, in order."""
    return [tensor for _, tensor in _flat(groups)]


def sensitive(scores: Mapping[str, float], top: int | None = None) -> list[str]:
    """The groups of the highest scores.

    Args:
        scores: By group.
        top: How many; None: those above the geometric mean, which no unit changes.

    Raises:
        UsageError: If there are not as many.

    Example:
        >>> sensitive({"convolution-1": 1.0, "norm-1": 3.0, "head": 5.0}, top=2)
        ['norm-1', 'head']
        >>> sensitive({"convolution-1": 1.0, "norm-1": 1.0, "head": 5.0})
        ['head']
    """
    if top is not None and not 1 <= top <= len(scores):
        raise UsageError(f"top must be from 1 to the {len(scores)} modules; given: {top}.")
    if top is not None:
        best = set(sorted(scores, key=lambda name: -scores[name])[:top])
        return [name for name in scores if name in best]
    moving = [math.log(score) for score in scores.values() if score > 0]
    mean = math.exp(sum(moving) / len(moving)) if moving else 0.0
    return [name for name in scores if scores[name] >= mean * (1 - 1e-9)]


def _parts(groups: Mapping[str, Group]) -> dict[str, list[tuple[str, Tensor]]]:
    """What is measured as one: a group's trained weights; its running statistics."""
    parts: dict[str, list[tuple[str, Tensor]]] = {}
    for name, group in groups.items():
        trained = [(n, p.detach()) for n, p in group.parameters.items() if p.requires_grad]
        if trained:
            parts[name] = trained
    for name, group in groups.items():
        held = [
            (f"{STATISTICS} {name} {k} {which}", statistic)
            for k, layer in enumerate(group.layers)
            for which, statistic in layer.named_buffers(recurse=False)
            if which in ("running_mean", "running_var")
        ]
        if held:
            parts[f"{STATISTICS} {name}"] = held
    return parts


def _flat(groups: Mapping[str, Group]) -> list[tuple[str, Tensor]]:
    return [entry for part in _parts(groups).values() for entry in part]


def _with_row(rows: Tensor | None, row: Tensor) -> Tensor:
    if rows is None:
        return row[None]
    return torch.cat([rows, row[None]])
