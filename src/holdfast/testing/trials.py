"""Small streams of real digits, and small runs on them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from holdfast import checkpoint
from holdfast.data import Table
from holdfast.errors import StreamRefused
from holdfast.learner import Learner, Observer
from holdfast.method import Method
from holdfast.models import build as build_model
from holdfast.stream import Stream
from holdfast.streams.source import Source, class_incremental, domain_incremental
from holdfast.streams.sources import digits
from holdfast.testing.comparison import ContractError

Factory = Callable[[], Method]
Result = TypeVar("Result")


def small_stream(scenario: str = "class", per_experience: int = 40) -> Stream:
    """A few real digits in three experiences: `class`, `task` or `domain`-incremental."""
    source = cached_digits()
    if scenario == "domain":
        domains = [
            (
                f"shift {k}",
                some_rows(source.train, k, per_experience),
                some_rows(source.test, k, 30),
            )
            for k in range(3)
        ]
        return domain_incremental(source, domains, "small-domain")
    six = first_classes(source, 6)
    stream = class_incremental(six, 3, seed=None, name=f"small-{scenario}")
    experiences = [
        replace(e, train=some_rows(e.train, 0, per_experience), test=some_rows(e.test, 0, 30))
        for e in stream
    ]
    stream = replace(stream, experiences=experiences)
    return stream.with_tasks() if scenario == "task" else stream


def learner_for(
    make: Factory,
    stream: Stream,
    head: str = "full",
    batch_size: int = 16,
    evaluate_every: int | None = None,
    device: str | None = None,
    model: nn.Module | None = None,
) -> Learner:
    return Learner(
        model or build_model("mlp(width=16, depth=1)", stream, head=head, seed=3),
        make(),
        optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9),
        epochs=2,
        batch_size=batch_size,
        optimizer_state="keep",
        evaluate_every=evaluate_every,
        evaluate_subset=20,
        seed=5,
        device=device,
    )


def run(make: Factory, stream: Stream, **options: Any) -> Learner:
    learner = learner_for(make, stream, **options)
    learner.learn(stream)
    return learner


def served_streams(make: Factory, per_experience: int = 40) -> list[Stream]:
    """The small streams that the method does not refuse."""
    served = []
    for scenario in ("class", "task", "domain"):
        stream = small_stream(scenario, per_experience)
        try:
            learner_for(make, stream).start(stream)
        except StreamRefused:
            continue
        served.append(stream)
    if not served:
        raise ContractError("The method refuses class-, task- and domain-incremental streams.")
    return served


def runs_or_refuses(make: Factory, stream: Stream) -> None:
    try:
        learner = tried(partial(run, make, stream), f"{stream.name} is not learned nor refused")
    except StreamRefused:
        return
    if len(learner.record.matrix) != len(stream):
        raise ContractError(f"{stream.name} has {len(stream)} experiences; rows are missing.")


def tried(work: Callable[[], Result], complaint: str) -> Result:
    """What `work` returns; any failure but a refusal breaks the contract."""
    try:
        return work()
    except (ContractError, StreamRefused):
        raise
    except Exception as error:
        raise ContractError(f"{complaint}: {type(error).__name__}: {error}") from error


def run_keeping_states(
    make: Factory, stream: Stream, head: str
) -> tuple[Learner, list[tuple[str, Any]]]:
    """A whole run, and checkpoints of it, written to disk and read back.

    They lie between epochs, inside the first, inside the second, and between experiences.
    """
    states: list[tuple[str, Any]] = []

    class Keep(Observer):
        def on_step(self, learner: Learner) -> None:
            if (learner.index, learner.step) in ((0, 3), (1, 1), (2, 4)):
                self.keep(learner, f"experience {learner.index}, step {learner.step}")

        def on_experience(self, learner: Learner) -> None:
            if learner.index > 1:
                self.keep(learner, f"the end of experience {learner.index - 1}")

        def keep(self, learner: Learner, at: str) -> None:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "state.safetensors"
                checkpoint.save(path, learner.state_dict())
                states.append((at, checkpoint.load(path)))

    learner = learner_for(make, stream, head)
    learner.learn(stream, [Keep()])
    return learner, states


@cache
def cached_digits() -> Source:
    return digits()


def some_rows(table: Table, part: int, rows: int) -> Table:
    """`rows` rows, spread over the table and different for every part."""
    stride = max(1, len(table) // rows)
    return table.take((torch.arange(rows) * stride + part) % len(table))


def first_classes(source: Source, classes: int) -> Source:
    return replace(
        source,
        train=source.train.where(source.train["y"] < classes),
        test=source.test.where(source.test["y"] < classes),
        class_names=source.class_names[:classes],
    )
