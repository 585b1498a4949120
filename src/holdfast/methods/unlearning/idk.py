"""IDK: learn to refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from holdfast.data import Batch, concat, size
from holdfast.memory.requests import RETAIN, Refusals, Retained, of_request, unpaired_in
from holdfast.method import Method, Tags

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream


class IDK(Method):
    """IDK: ordinary training on refusals in place of the answers that are to be forgotten.

        loss = loss over [questions of F with refusals ; R]

    in one forward pass, the mean over all their answers' tokens. The answers themselves are never
    shown, nor pushed away: they are still there for whoever asks otherwise.

    Args:
        retain: Whether as many rows of the retain set are in the same pass; without, another
            method may be chained for what is to be kept.

    Differs from the paper: which refusal a question gets is drawn once for the request, not anew
    in every epoch.
    """

    tags = Tags(
        family="unlearning",
        title="TOFU: A Task of Fictitious Unlearning for LLMs (its IDK baseline)",
        source="Maini et al., 2024",
        scenarios=frozenset({"text"}),
        needs=frozenset({"refusal set"}),
    )

    def __init__(self, retain: bool = True) -> None:
        super().__init__()
        self.retain = retain
        self.refusals, self.retained = Refusals(), Retained()

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        lacking = [e.name for e in stream.experiences if RETAIN not in e.sets]
        if self.retain and lacking:
            return (
                f"IDK trains on a retain set too, and {lacking[0]!r} has none: give one, or "
                "retain=false."
            )
        return super().refusal(stream, model) or unpaired_in(stream)

    def begin(self, learner: Learner, experience: Experience) -> None:
        self.refusals.begin(learner, experience)
        if self.retain:
            of_request(experience, RETAIN)

    def batch(self, learner: Learner, batch: Batch) -> Batch:
        rows = learner.stream_rows
        if not rows:
            return batch
        shown = [self.refusals.of(learner)]
        learner.incoming = shown[0]  # the answers are given up, also for those that come after
        if self.retain:
            shown.append(self.retained.draw(learner, rows))
        if size(batch) > rows:
            shown.append({name: column[rows:] for name, column in batch.items()})
        shared = [name for name in shown[0] if all(name in part for part in shown)]
        return concat({name: shown[0][name] for name in shared}, *shown[1:])
