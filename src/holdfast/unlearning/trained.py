"""A classifier that `holdfast run` trained, with the examples it was trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from holdfast.config import Config
from holdfast.data import Table
from holdfast.errors import DataError, UsageError
from holdfast.learner import Learner, Observer
from holdfast.run import Checkpoints, build, resolved
from holdfast.stream import Stream
from holdfast.streams import is_language


@dataclass(frozen=True)
class Trained:
    """A finished run.

    Attributes:
        folder: Where it lies.
        config: As it was run, with what it left open settled.
        model: At its end.
        stream: What it learned.
        table: All its training examples, experience after experience.
        test: All its test examples.
    """

    folder: Path
    config: Config
    model: Any
    stream: Stream
    table: Table
    test: Table

    def learner(self) -> tuple[Learner, Stream]:
        """A fresh learner as the run had it, and its stream."""
        return build(self.config)

    def label(self, name: str | int) -> int:
        """The label of a class, by its name or else by its number.

        Raises:
            UsageError: If there is no such class.
        """
        names = self.stream.class_names
        if str(name) in names:
            return names.index(str(name))
        if isinstance(name, int) and 0 <= name < self.stream.classes:
            return name
        from holdfast.errors import unknown

        raise unknown("class", str(name), names or map(str, range(self.stream.classes)))


def load(folder: Path) -> Trained:
    """The classifier in the folder of a finished run.

    Raises:
        UsageError: If there is no finished run of a classifier in it, or one whose method has the
            last word on predictions, so that unlearning its model would not change them.
        CheckpointError: If its checkpoint is damaged.
    """
    if not (folder / "config.json").is_file():
        raise UsageError(
            f"There is no run in {folder}: give the folder that `holdfast run ... --out` wrote."
        )
    config = Config.read(folder / "config.json")
    if is_language(config.stream):
        raise UsageError(f"{folder} holds a language model ({config.stream}); --run takes others.")
    keeper = Checkpoints(folder / "checkpoints", config)
    newest = keeper.newest()
    if newest is None or not (folder / "result.json").is_file():
        raise UsageError(f"The run in {folder} has not finished: go on with it by --resume first.")
    learner, stream = build(config)
    if stream.scenario == "task":
        raise UsageError(
            f"The run in {folder} was told the task of every example; accepted are runs on class- "
            "and domain-incremental streams."
        )
    for part in learner.method.parts():
        decides = any(map(part.overrides, ("answer", "predict", "serving")))
        if decides or part.replaces_training:
            raise UsageError(
                f"In the run in {folder} {type(part).__name__} decides predictions beside the "
                "model: what the model unlearns it would still know."
            )
    threads = torch.get_num_threads()
    try:
        keeper.restore(newest, learner, stream)
    finally:
        torch.set_num_threads(threads)
    return Trained(
        folder=folder,
        config=resolved(config, stream),
        model=learner.model,
        stream=stream,
        table=Table.concat([experience.train for experience in stream]),
        test=Table.concat([experience.test for experience in stream]),
    )


def retrained(
    trained: Trained, rows: Int[Tensor, " rows"], observers: list[Observer] | None = None
) -> Learner:
    """The run again, from scratch and with its own seed, without some of its training examples.

    Raises:
        DataError: If nothing would be left.
    """
    learner, stream = trained.learner()
    keep = torch.ones(len(trained.table), dtype=torch.bool)
    keep[rows] = False
    parts = keep.split([len(experience.train) for experience in stream])
    left = [
        replace(experience, train=experience.train.where(part))
        for experience, part in zip(stream, parts, strict=True)
        if part.any()
    ]
    if not left:
        raise DataError("Nothing is left to be retained.")
    experiences = [replace(experience, index=index) for index, experience in enumerate(left)]
    learner.learn(replace(stream, experiences=experiences), observers or [])
    return learner
