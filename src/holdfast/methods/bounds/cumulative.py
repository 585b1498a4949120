"""Cumulative training: the upper bound that respects the order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from holdfast.data import Table
from holdfast.memory.parameters import ParameterStore
from holdfast.method import ALL_KINDS, Method, Tags

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience


class Cumulative(Method):
    """Cumulative training on all data so far, experience after experience.

    Args:
        from_scratch: Go back to the initial weights at every experience, instead of continuing
            from the last ones.
    """

    tags = Tags(
        family="bound",
        title="Cumulative training (upper bound in order)",
        source="",
        scenarios=ALL_KINDS,
        needs=frozenset({"past data"}),
    )

    def __init__(self, from_scratch: bool = False) -> None:
        super().__init__()
        self.from_scratch = from_scratch
        self.initial = ParameterStore()

    def begin(self, learner: Learner, experience: Experience) -> None:
        if not self.from_scratch:
            return
        state = [
            (n, t) for n, t in learner.model.state_dict().items() if isinstance(t, torch.Tensor)
        ]
        known = {name.replace("/", "."): tensor for name, tensor in self.initial.named_buffers()}
        for name, tensor in state:
            if name in known:  # rows that have just appeared are at their initial values already
                old_part = tuple(slice(length) for length in known[name].shape)
                tensor[old_part] = known[name]
        self.initial.put(state)
        learner.optimizer.state.clear()  # momentum is of the weights that were given up

    def select(self, learner: Learner, table: Table) -> Table:
        assert learner.stream is not None
        so_far = learner.stream.experiences[: learner.index + 1]
        return Table.concat([experience.train for experience in so_far])
