"""Replay within the budget: a share of every batch comes from old data."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from holdfast.data import Batch, Table, concat
from holdfast.errors import StreamRefused, UsageError, at_least
from holdfast.memory.rehearsal import (
    Order,
    Rehearsal,
    Split,
    TokenReservoir,
    alike,
    tokens,
    up_to,
)
from holdfast.method import ALL_KINDS, Method, Tags

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream

Source = Literal["buffer", "past", "self", "past+buffer", "self+buffer"]
Share = Literal["tokens", "examples"]


class Replay(Method):
    """Replay within the budget: of every batch, a share comes from old data instead of the stream.

    With r the fraction, B rows a batch, and l_old and l_new the mean tokens of old and of new rows,

        q B rows are old and (1 - q) B new,   q = r l_new / (r l_new + (1 - r) l_old),

    so that old tokens are a share r of all, and a step costs what it costs without replay. The
    stream's last rows in the batch are given up. Where q B is no whole number, the number of old
    rows changes from batch to batch so that the share is right over any run of them, without
    chance. Old rows come in the order in which they were first seen, and none again before all have
    come.

    Args:
        fraction: r, in 0..1 (exclusive).
        source: Where old data come from. `buffer`: a uniform sample of the stream's earlier
            experiences; `past`: the stream's examples of what a pre-trained model knows; `self`:
            text sampled from the model before training, which needs no old data at all; two of
            them by `past+buffer` or `self+buffer`.
        capacity: Tokens of old data held: of the stream, a sample; of `past`, the first. Where
            nothing is text, rows.
        order: `original`, or `random`: shuffled each time round.
        share: Whether the fraction counts `tokens` or `examples`.
        split: Between several old corpora: by `size`, in tokens, or `equal`.
        self_rows: Rows sampled from the model.
        self_length: Tokens of each, at most the model's context; None: as wide as the stream's.
        temperature: Of that sampling.
        extra: Add old rows to the stream's and give up none: then a step costs more.

    Raises:
        UsageError: If a number is out of range or a policy does not exist.

    Differs from the paper: rows that would be cut in two for an exact share of one batch are left
    whole, so the share is right over a few batches. A model that names no begin token begins its
    samples with tokens drawn uniformly from its vocabulary, as data-free distillation does (Liu et
    al., "LLM-QAT", 2023).

    Example:
        >>> Replay(fraction=0.25, source="self").fraction
        0.25
    """

    tags = Tags(
        family="replay",
        title="Simple and scalable strategies to continually pre-train large language models",
        source="Ibrahim et al., 2024",
        scenarios=ALL_KINDS,
        needs=frozenset({"boundaries"}),
        keeps=frozenset({"examples"}),
    )
    remembers = ("ratio", "brought", "replayed")
    counted: Tensor | None

    def __init__(
        self,
        fraction: float = 0.05,
        source: Source = "buffer",
        capacity: int = 262144,
        order: Order = "original",
        share: Share = "tokens",
        split: Split = "size",
        self_rows: int = 256,
        self_length: int | None = None,
        temperature: float = 1.0,
        extra: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= fraction < 1:
            raise UsageError(f"fraction must be at least 0 and below 1; given: {fraction}.")
        for name, given, accepted in (
            ("source", source, get_args(Source)),
            ("share", share, get_args(Share)),
        ):
            if given not in accepted:
                raise UsageError(f"{name} must be one of {', '.join(accepted)}; given: {given!r}.")
        at_least(1, self_rows=self_rows)
        at_least(2, self_length=self_length)
        self.fraction, self.source, self.capacity = fraction, source, capacity
        self.order, self.share, self.split = order, share, split
        self.self_rows, self.self_length = self_rows, self_length
        self.temperature, self.extra = temperature, extra
        self.reservoir = TokenReservoir(capacity)
        self.rehearsal = Rehearsal(order, split)
        self.ratio = 0.0  # old rows for every row that the stream brings
        self.brought, self.replayed = 0, 0  # rows, in this experience
        self.register_buffer("counted", None)  # tokens trained on: new, old

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        config: Any = getattr(model, "config", None)
        if self._past and stream.past is None:
            return (
                f"Replay from {self.source!r} rehearses examples of what the model knows, and "
                f"{stream.name!r} comes with none: give some, or use source='self'."
            )
        if self._self and (stream.scenario != "text" or config is None):
            return (
                "Replay from 'self' rehearses text sampled from a language model; "
                f"{stream.name!r} with a {type(model).__name__} has none."
            )
        if self._self and getattr(config, "is_encoder_decoder", False):
            return (
                "Replay from 'self' samples freely from a causal model, and "
                f"{type(model).__name__} is an encoder and decoder: use source='past' or 'buffer'."
            )
        return super().refusal(stream, model)

    def setup(self, learner: Learner) -> None:
        if self._self and not learner.pretrained:
            raise StreamRefused(
                "Replay from 'self' rehearses what the model knew before training: give the "
                "learner pretrained=True, or use source='buffer'."
            )

    def inherit(self, learner: Learner) -> None:
        if self._self:
            from holdfast.language.generate import said_by

            like = learner.experience.train
            length = self.self_length or like["input_ids"].shape[1]
            said = said_by(learner.model, self.self_rows, length, learner.seed, self.temperature)
            self.rehearsal.fill([alike(said.to(learner.device), like)], learner.generator)

    def begin(self, learner: Learner, experience: Experience) -> None:
        like = experience.train
        corpora: list[Table] = []
        if self._past and not self.rehearsal:
            assert learner.stream is not None
            assert learner.stream.past is not None
            given = learner.stream.past.to(learner.device)
            corpora = [alike(up_to(given, self.capacity), like)]
        elif self._past or self._self:
            corpora = self.rehearsal.corpora(1)
        kept = self.reservoir.corpora()
        corpora += [alike(corpus, like).with_columns(arrival=corpus["arrival"]) for corpus in kept]
        self.rehearsal.fill(corpora, learner.generator)
        mean_tokens = float(tokens(like.columns).float().mean())
        self.ratio = self._ratio(mean_tokens)
        self.brought, self.replayed = 0, 0
        self.counted = torch.zeros(2, dtype=torch.long, device=learner.device)
        if self._buffer:
            self.reservoir.open(mean_tokens)

    def batch(self, learner: Learner, batch: Batch) -> Batch:
        rows, replayed = learner.stream_rows, None
        old = self._due(rows)
        if old:
            replayed = self.rehearsal.draw(old, learner.generator)
            if not self.extra:
                kept = rows - old
                learner.incoming = {name: c[:kept] for name, c in learner.incoming.items()}
                batch = {name: torch.cat([c[:kept], c[rows:]]) for name, c in batch.items()}
        self._count(0, learner.incoming)
        if self._buffer and not learner.epoch:
            self.reservoir.add(learner.incoming, learner.index, learner.generator)
        if replayed is None:
            return batch
        self._count(1, replayed)
        return concat({name: c for name, c in batch.items() if name in replayed}, replayed)

    def end(self, learner: Learner, experience: Experience) -> None:
        self.reservoir.close(learner.generator)
        if self.rehearsal and self.brought and self.counted is not None:
            new, old = self.counted.tolist()
            if not new + old:  # nothing was trained on: the model knows it already
                return
            learner.note(new_tokens=new, replayed_tokens=old, replayed_share=old / (new + old))

    def _ratio(self, mean_tokens: float) -> float:
        """Old rows for every row that the stream brings."""
        if not self.rehearsal:
            return 0.0
        of_tokens = self.share == "tokens"
        new, old = (mean_tokens, self.rehearsal.mean_tokens) if of_tokens else (1.0, 1.0)
        r = self.fraction
        return r * new / ((1 - r) * old if self.extra else r * new + (1 - r) * old)

    def _due(self, rows: int) -> int:
        """Old rows that this batch must have for the share to be right so far."""
        self.brought += rows
        # An addition of shares such as 0.1 may end a hair below a whole number.
        due = math.floor(self.brought * self.ratio + 1e-9) - self.replayed
        due = due if self.extra else min(due, rows)
        self.replayed += due
        return due

    def _count(self, which: int, batch: Batch) -> None:
        assert self.counted is not None
        self.counted[which] += tokens(batch).sum()

    @property
    def _past(self) -> bool:
        return self.source.startswith("past")

    @property
    def _self(self) -> bool:
        return self.source.startswith("self")

    @property
    def _buffer(self) -> bool:
        return self.source.endswith("buffer")
