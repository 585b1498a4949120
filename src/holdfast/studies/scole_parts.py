"""Parts of the study of long recurring streams: masking, frequency replay, a small network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.data import Batch, Table
from holdfast.learner import Learner
from holdfast.method import Method, Tags

if TYPE_CHECKING:
    from holdfast.stream import Experience

TITLE = "Challenging common assumptions about catastrophic forgetting and knowledge accumulation"
SOURCE = "Lesort et al., 2023"
NEVER = -1e9
"""The logit of a class that is not in the batch."""


class GroupMasking(Method):
    """The training loss sees the logits of those classes alone that are in the mini-batch.

    The softmax is over them, so that the rows of all other classes get no gradient. At test all
    logits count.
    """

    tags = Tags(
        "schedule",
        TITLE,
        SOURCE,
        scenarios=frozenset({"class"}),
        needs=frozenset({"labels"}),
    )

    def logits(self, learner: Learner, batch: Batch, outputs: Tensor) -> Tensor:
        present = torch.zeros(outputs.shape[1], dtype=torch.bool, device=outputs.device)
        return outputs.masked_fill(~present.index_fill_(0, batch["y"], True), NEVER)


class FrequencyReplay(Method):
    """Some examples of every class are kept, and rare classes, but not the rarest, are replayed.

    A class's frequency is the share of the experiences that it was in or was replayed in. Replayed
    are, least frequent first, as many classes as the experience has, of those that are not in it,
    came at least `trigger` times and have a frequency in (low, high]. On each visit a part of what
    is kept of a class, 1 / (visits + 1) but at least a twentieth, gives way to new examples.

    Args:
        per_class: Examples kept of each class.
        low: Of the band of frequencies.
        high: Of the band of frequencies.
        trigger: Visits, replays counted, before a class is replayed.

    Source: Lesort et al. (2023).
    """

    tags = Tags(
        "replay",
        TITLE,
        SOURCE,
        scenarios=frozenset({"class"}),
        needs=frozenset({"labels", "boundaries"}),
        keeps=frozenset({"examples"}),
    )
    remembers = ("visits", "replayed", "experiences")

    def __init__(
        self, per_class: int = 200, low: float = 0.01, high: float = 0.1, trigger: int = 3
    ) -> None:
        super().__init__()
        self.per_class, self.low, self.high, self.trigger = per_class, low, high, trigger
        self.visits: dict[str, int] = {}
        self.replayed: list[int] = []
        self.experiences = 0

    def begin(self, learner: Learner, experience: Experience) -> None:
        """Choose the classes that are replayed."""
        band = [
            (count, int(label))
            for label, count in self.visits.items()
            if int(label) not in experience.classes
            and count >= self.trigger
            and self.low < count / self.experiences <= self.high
        ]
        self.replayed = [label for _, label in sorted(band)[: len(experience.classes)]]

    def select(self, learner: Learner, table: Table) -> Table:
        kept = [self.kept(label) for label in self.replayed]
        return Table.concat([Table(dict(table.columns)), *[k for k in kept if k is not None]])

    def end(self, learner: Learner, experience: Experience) -> None:
        y = experience.train["y"]
        for label in experience.classes:
            rows = (y == label).nonzero().flatten()
            new = rows[_shuffled(len(rows), learner)]
            held = self.kept(label)
            if held is None:
                self.keep(label, experience.train.take(new[: self.per_class]))
                continue
            room = self.per_class - len(held)
            if room > 0:  # earlier visits had too few
                held = Table.concat([held, Table(experience.train[new[:room]])])
                new = new[room:]
            renewed = max(self.per_class // (self.visits[str(label)] + 1), self.per_class // 20)
            renewed = min(renewed, len(new), len(held))
            places = _shuffled(len(held), learner)[:renewed]
            fresh = experience.train.take(new[:renewed])
            columns = {n: c.index_copy(0, places, fresh[n]) for n, c in held.columns.items()}
            self.keep(label, Table(columns))
        for label in (*experience.classes, *self.replayed):
            self.visits[str(label)] = self.visits.get(str(label), 0) + 1
        self.experiences += 1

    def kept(self, label: int) -> Table | None:
        """What is kept of a class."""
        names = [n for n in ("x", "y") if f"class_{label}_{n}" in self._buffers]
        columns: Any = {n: self._buffers[f"class_{label}_{n}"] for n in names}
        return Table(columns) if columns else None

    def keep(self, label: int, table: Table) -> None:
        for name in ("x", "y"):
            self.register_buffer(f"class_{label}_{name}", table[name])


def _shuffled(count: int, learner: Learner) -> Tensor:
    return torch.randperm(count, generator=learner.generator, device=learner.device)


class SmallConv(nn.Module):
    """The paper's network for images of 28x28: two convolutions of 5x5 and a layer of 50 units."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 10, 5), nn.MaxPool2d(2), nn.ReLU(),
            nn.Conv2d(10, 20, 5), nn.MaxPool2d(2), nn.ReLU(),
            nn.Flatten(), nn.Linear(320, 50), nn.ReLU(),
        )  # fmt: skip
        self.width = 50

    def forward(self, x: Float[Tensor, "examples 1 28 28"]) -> Float[Tensor, "examples 50"]:
        features: Tensor = self.layers(x)
        return features


def probes(learner: Learner, train: Table, test: Table) -> tuple[float, float]:
    """Accuracy that a linear classifier and five nearest neighbours get from the features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    known, asked = (learner.features(table).cpu().numpy() for table in (train, test))
    y, truth = train["y"].cpu().numpy(), test["y"].cpu().numpy()
    found = []
    for classifier in (LogisticRegression(max_iter=500), KNeighborsClassifier(5)):
        model = make_pipeline(StandardScaler(), classifier).fit(known, y)
        found.append(float(model.score(asked, truth)))
    return found[0], found[1]
