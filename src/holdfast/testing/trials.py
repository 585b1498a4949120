"""Small streams of real digits and real text, and small runs on them."""

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
from holdfast.stream import Experience, Stream
from holdfast.streams.source import Source, class_incremental, domain_incremental
from holdfast.streams.sources import digits
from holdfast.testing.comparison import ContractError

TEXT_WIDTH = 16
"""Tokens a row of the small text stream."""

Factory = Callable[[], Method]
Result = TypeVar("Result")


def small_stream(scenario: str = "class", per_experience: int = 40) -> Stream:
    """Three small experiences of real data.

    Digits, `class`, `task` or `domain`-incremental; or `text`: bytes of Python's documentation.
    """
    if scenario == "text":
        return small_text(per_experience)
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
        return with_retained(domain_incremental(source, domains, "small-domain"), source)
    six = first_classes(source, 6)
    stream = class_incremental(six, 3, seed=None, name=f"small-{scenario}")
    experiences = [
        replace(e, train=some_rows(e.train, 0, per_experience), test=some_rows(e.test, 0, 30))
        for e in stream
    ]
    stream = replace(stream, experiences=experiences)
    return stream.with_tasks() if scenario == "task" else with_retained(stream, six)


def with_retained(stream: Stream, source: Source, rows: int = 24) -> Stream:
    """The stream with a retain set in every experience: of its classes, but not of its rows."""
    kept = [
        source.train.where(torch.isin(source.train["y"], torch.tensor(e.classes))) for e in stream
    ]
    experiences = [
        replace(e, sets={**e.sets, "retain": some_rows(table, 5, rows)})
        for e, table in zip(stream, kept, strict=True)
    ]
    return replace(stream, experiences=experiences)


def small_text(per_experience: int = 40) -> Stream:
    """Three topics of Python's documentation as bytes, in padded rows of different lengths."""
    from pydoc_data.topics import topics

    def table(name: str, start: int, rows: int) -> Table:
        content = topics[name].encode()
        ids = torch.zeros(rows, TEXT_WIDTH, dtype=torch.long)
        lengths = torch.tensor([TEXT_WIDTH - (start + row) % 7 for row in range(rows)])
        for row in range(rows):
            at = (start + row) * TEXT_WIDTH % (len(content) - TEXT_WIDTH)
            ids[row] = torch.tensor(list(content[at : at + TEXT_WIDTH]))
        real = torch.arange(TEXT_WIDTH) < lengths[:, None]
        return Table(
            {
                "input_ids": ids * real,
                "labels": torch.where(real, ids, -100),
                "attention_mask": real.long(),
                "length": lengths,
            }
        )

    names = ("assignment", "formatstrings", "operator-summary")
    return Stream(
        name="small-text",
        experiences=[
            Experience(
                i,
                table(name, 0, per_experience),
                table(name, 50, 30),
                (),
                name,
                {
                    "guard": table("lambda", 20, 10),
                    "retain": table("lambda", 40, 12),
                    "refusal": table("lambda", 60, per_experience),
                },
            )
            for i, name in enumerate(names)
        ],
        scenario="text",
        classes=0,
        shape=(TEXT_WIDTH,),
        past=table("lambda", 0, 20),
    )


def small_llama(seed: int = 3) -> nn.Module:
    """A transformer of the Llama family, two blocks of width 16, over bytes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: nn.Module = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=256,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                max_position_embeddings=64,
                bos_token_id=None,
                eos_token_id=None,
            )
        )
    return model


def small_model(stream: Stream, head: str = "full", normed: bool = False) -> nn.Module:
    """A small model for a small stream; `normed`: with batch normalisation."""
    if stream.scenario == "text":
        return small_llama()
    if normed:
        return build_model("cnn(width=4, depth=2)", stream, head=head, seed=3)
    return build_model("mlp(width=16, depth=1)", stream, head=head, seed=3)


def learner_for(
    make: Factory,
    stream: Stream,
    head: str = "full",
    batch_size: int = 16,
    evaluate_every: int | None = None,
    device: str | None = None,
    model: nn.Module | None = None,
    counting: bool = False,
) -> Learner:
    method = make()
    normed = any("norm layers" in part.tags.needs for part in method.parts())
    learner = Learner(
        model or small_model(stream, head, normed),
        method,
        optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9),
        epochs=2,
        batch_size=batch_size,
        optimizer_state="keep",
        clip=1.0 if stream.scenario == "text" else None,  # sums over tokens may have long gradients
        pretrained=stream.scenario == "text",
        evaluate_every=evaluate_every,
        evaluate_subset=20,
        seed=5,
        device=device,
    )
    learner.meter.counting = counting  # of operations: it would be most of so small a run
    return learner


def run(make: Factory, stream: Stream, **options: Any) -> Learner:
    learner = learner_for(make, stream, **options)
    learner.learn(stream)
    return learner


def served_streams(make: Factory, per_experience: int = 40) -> list[Stream]:
    """The small streams that the method does not refuse."""
    served = []
    for scenario in ("class", "task", "domain", "text"):
        stream = small_stream(scenario, per_experience)
        start = partial(learner_for(make, stream).start, stream)
        try:
            tried(start, f"On {stream.name} the method neither begins nor is refused")
        except StreamRefused:
            continue
        served.append(stream)
    if not served:
        raise ContractError(
            "The method refuses class-, task- and domain-incremental streams, and language."
        )
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
