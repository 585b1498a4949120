"""Unlearning by wrong labels drawn at random."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from holdfast.data import Batch, Table
from holdfast.method import Method, Tags
from holdfast.unlearning.request import FORGET, both

if TYPE_CHECKING:
    from holdfast.learner import Learner


class RandomLabels(Method):
    """Random labels (RL): what is to be forgotten is learned with labels drawn at random.

        loss = CE(f(x), y) over the retain set + CE(f(x), uniform label) over the forget set

    in shuffled batches of both. Labels are drawn anew in every epoch, from all classes that the
    model knows: the right one among them.
    """

    tags = Tags(
        family="unlearning",
        title="Amnesiac machine learning",
        source="Graves et al., 2021",
        scenarios=frozenset({"class", "domain"}),
        needs=frozenset({"boundaries", "labels", "retain set"}),
    )

    def select(self, learner: Learner, table: Table) -> Table:
        return both(learner, table)

    def batch(self, learner: Learner, batch: Batch) -> Batch:
        rows, y = learner.stream_rows, batch["y"]
        drawn = torch.randint(
            learner.known, (rows,), generator=learner.generator, device=learner.device
        )
        own = torch.where(batch[FORGET][:rows], drawn, y[:rows])
        return {**batch, "y": torch.cat([own, y[rows:]])}
