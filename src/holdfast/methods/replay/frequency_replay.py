"""Replay by frequency, in streams whose classes come again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, get_args

import torch
from jaxtyping import Int
from torch import Tensor, nn

from holdfast.data import Table
from holdfast.errors import UsageError, at_least
from holdfast.evaluation import undisturbed
from holdfast.memory.columns import Columns
from holdfast.method import Method, Tags

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream

Counting = Literal["visits", "accuracy"]


class FrequencyReplay(Method):
    """Frequency replay: of classes that come now and then, the rare ones are shown again.

        n_c <- n_c + 1                 for every class c of the experience, or replayed in it
        f_c  = n_c / experiences so far
        replayed: of the classes not in the experience that came at least `trigger` times and have
                  low < f_c <= high, the least frequent, as many as the experience has

    so that classes too rare to be learned at all are left alone, and so are those that come often
    enough. What is kept of a replayed class is trained on beside the new examples. On each visit of
    a class 1 / (visits + 1) of what is kept of it, and at least a twentieth, gives way to new
    examples.

    Args:
        capacity: Examples remembered, an equal share for every class of the stream; the paper has
            200 a class.
        low: Of the band of frequencies, exclusive.
        high: Of the band of frequencies, inclusive.
        trigger: Visits, replays included, before a class is replayed.
        count: `visits`, or `accuracy`: each visit counts as the model's accuracy on what is kept of
            the class, so that what is not known well is replayed sooner.
        random: In place of the band, classes drawn at random: for each class of the experience one
            other with this chance (random replay); None: by frequency.

    Raises:
        UsageError: If an argument is out of range.

    Differs from the paper: with `count=accuracy` its code asks held-out examples, here those that
    are kept are asked.

    Source: Lesort et al., "Challenging common assumptions about catastrophic forgetting and
    knowledge accumulation" (2023).

    Example:
        >>> FrequencyReplay(capacity=2000, high=0.2).trigger
        3
    """

    tags = Tags(
        "replay",
        "Challenging common assumptions about catastrophic forgetting and knowledge accumulation",
        "Lesort et al., 2023",
        scenarios=frozenset({"class"}),
        needs=frozenset({"labels", "boundaries"}),
        keeps=frozenset({"examples"}),
    )
    remembers = ("visits", "counts", "replayed", "experiences")

    def __init__(
        self,
        capacity: int = 200,
        low: float = 0.01,
        high: float = 0.1,
        trigger: int = 3,
        count: Counting = "visits",
        random: float | None = None,
    ) -> None:
        super().__init__()
        at_least(1, capacity=capacity, trigger=trigger)
        if not 0 <= low < high <= 1:
            raise UsageError(f"0 <= low < high <= 1 is needed; given: low={low}, high={high}.")
        if count not in get_args(Counting):
            raise UsageError(f"count must be 'visits' or 'accuracy'; given: {count!r}.")
        if random is not None and not 0 <= random <= 1:
            raise UsageError(f"random must be from 0 to 1, or none; given: {random}.")
        self.capacity, self.low, self.high, self.trigger = capacity, low, high, trigger
        self.count, self.random = count, random
        self.memory = Columns()
        self.visits: dict[str, int] = {}
        self.counts: dict[str, float] = {}
        self.replayed: list[int] = []
        self.experiences = 0

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        if self.capacity < stream.classes:
            return (
                f"FrequencyReplay keeps as many examples of each class, and {stream.name!r} has "
                f"{stream.classes} classes: give it a capacity of at least that; given: "
                f"{self.capacity}."
            )
        return super().refusal(stream, model)

    def begin(self, learner: Learner, experience: Experience) -> None:
        """Choose the classes that are replayed."""
        others = [int(label) for label in self.visits if int(label) not in experience.classes]
        size = len(experience.classes)
        if self.random is not None:
            number = int((_draw(torch.rand, size, learner) < self.random).sum())
            order = _draw(torch.randperm, len(others), learner).tolist()
            self.replayed = [others[place] for place in order[:number]]
            return
        band = [
            (self.counts[str(label)], label)
            for label in others
            if self.visits[str(label)] >= self.trigger
            and self.low < self.counts[str(label)] / self.experiences <= self.high
        ]
        self.replayed = [label for _, label in sorted(band)[:size]]

    def select(self, learner: Learner, table: Table) -> Table:
        kept = [Table(self.memory.held).take(self.rows(label)) for label in self.replayed]
        return Table.concat([table.to(learner.device), *kept]) if kept else table

    def end(self, learner: Learner, experience: Experience) -> None:
        assert learner.stream is not None
        share = self.capacity // learner.stream.classes
        train = experience.train.to(learner.device)
        for label in experience.classes:
            self.renew_class(label, train, share, learner)
        for label in (*experience.classes, *self.replayed):
            key = str(label)
            weight = 1.0 if self.count == "visits" else self.known(label, learner)
            self.visits[key] = self.visits.get(key, 0) + 1
            self.counts[key] = self.counts.get(key, 0.0) + weight
        self.experiences += 1

    def renew_class(self, label: int, train: Table, share: int, learner: Learner) -> None:
        """Put new examples of a class in place of some that are kept of it."""
        rows = (train["y"] == label).nonzero().flatten()
        new = rows[_draw(torch.randperm, len(rows), learner)]
        kept = self.rows(label)
        room = share - len(kept)  # earlier visits may have had too few
        if room > 0:
            self.put(train.take(new[:room]))
            new = new[room:]
        if not len(kept):
            return
        kept = self.rows(label)
        renewed = max(share // (self.visits[str(label)] + 1), share // 20)
        renewed = min(renewed, len(new), len(kept))
        places = kept[_draw(torch.randperm, len(kept), learner)[:renewed]]
        fresh = train.take(new[:renewed])
        for name, column in self.memory.held.items():
            self.memory.keep(name, column.index_copy(0, places, fresh[name]))

    def put(self, table: Table) -> None:
        """Keep more rows."""
        held = self.memory.held
        for name, column in table.columns.items():
            self.memory.keep(name, torch.cat([held[name], column]) if held else column.clone())

    def rows(self, label: int) -> Int[Tensor, " rows"]:
        """Where in the memory the examples of a class are."""
        held = self.memory.held
        return (held["y"] == label).nonzero().flatten() if held else torch.empty(0).long()

    def known(self, label: int, learner: Learner) -> float:
        """The model's accuracy on what is kept of a class."""
        kept = Table(self.memory.held).take(self.rows(label))
        with undisturbed(learner.model, learner.method, device=learner.device):
            hits = [learner.predict(batch).argmax(1) == label for batch in kept.chunks(1024)]
        return float(torch.cat(hits).float().mean())


def _draw(how: Callable[..., Tensor], size: int, learner: Learner) -> Tensor:
    return how(size, generator=learner.generator, device=learner.device)
