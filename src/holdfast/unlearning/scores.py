"""How an unlearned classifier scores: on what was to go, on what was to stay, and under attack."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from holdfast.data import Table
from holdfast.errors import UsageError
from holdfast.evaluation import undisturbed
from holdfast.unlearning.membership import HEADLINE, Seen, attack

if TYPE_CHECKING:
    from holdfast.learner import Learner

ROWS = 1024
"""Examples a pass."""

MEASURES = ("unlearning", "retain", "test", "membership")
"""What the average gap is the mean of."""


@dataclass(frozen=True)
class Scores:
    """What is measured of an unlearned model, as shares.

    Attributes:
        unlearning: UA, 1 - accuracy on the forget set.
        retain: RA, accuracy on the retain set.
        test: TA, accuracy on test examples.
        attacks: Share of the forget set that an attacker takes for never seen, by feature.
        seconds: Run time of the unlearning.
    """

    unlearning: float
    retain: float
    test: float
    attacks: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def membership(self) -> float:
        """MIA: the attack by the confidence in the right class."""
        return self.attacks[HEADLINE]

    def gaps(self, retrained: Scores) -> dict[str, float]:
        """Distance to the retrained model's, by measure, and their mean as `average`.

        Example:
            >>> one = Scores(0.1, 1.0, 0.9, {"confidence": 0.2})
            >>> other = Scores(0.3, 1.0, 0.8, {"confidence": 0.2})
            >>> round(one.gaps(other)["average"], 4)
            0.075
        """
        apart = {name: abs(getattr(self, name) - getattr(retrained, name)) for name in MEASURES}
        return {**apart, "average": sum(apart.values()) / len(apart)}

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        measured = {name: getattr(self, name) for name in MEASURES}
        return {**measured, "attacks": dict(self.attacks), "seconds": self.seconds}


def seen(learner: Learner, table: Table) -> Seen:
    """What a learner's model says of a table's examples, as it is used."""
    table = table.to(learner.device)
    found = []
    with learner.serving(), undisturbed(learner.model, learner.method, device=learner.device):
        for batch in table.chunks(ROWS):
            found.append(learner.objective.probabilities(learner.predict(batch), batch))
    probabilities = torch.cat(found)
    missing = int(table["y"].max()) + 1 - probabilities.shape[1]
    # A head that never grew a class's row gives that class no probability.
    return Seen(F.pad(probabilities, (0, max(0, missing))), table["y"])


def scores(
    learner: Learner,
    forget: Table,
    retain: Table,
    test: Table,
    *,
    attackers: int | None = 2000,
    seed: int = 0,
    seconds: float | None = None,
) -> Scores:
    """Score an unlearned model.

    Args:
        learner: Whose model it is.
        forget: What it was to forget.
        retain: What it was to keep.
        test: What it never saw.
        attackers: Examples of the retain set, and as many of the test set, that the attacks are
            fitted on: the smaller of both sets, but no more than this; None: no bound. Fitting
            takes time that grows with its square.
        seed: Draws them.
        seconds: Run time of the unlearning; None: what the learner spent training.

    Raises:
        UsageError: If a set is empty.
    """
    for name, table in (("forget", forget), ("retain", retain), ("test", test)):
        if not len(table):
            raise UsageError(f"The {name} set is empty.")
    of_forget, of_retain, of_test = (seen(learner, table) for table in (forget, retain, test))
    count = min(len(retain), len(test), *([attackers] if attackers is not None else []))
    generator = torch.Generator().manual_seed(seed)
    members, outsiders = (
        each.take(torch.randperm(len(each.labels), generator=generator)[:count].to(learner.device))
        for each in (of_retain, of_test)
    )
    return Scores(
        unlearning=1 - of_forget.accuracy,
        retain=of_retain.accuracy,
        test=of_test.accuracy,
        attacks=attack(members, outsiders, of_forget),
        seconds=learner.meter.seconds if seconds is None else seconds,
    )
