"""Boundary unlearning by an expanded boundary: a shadow class takes what is to be forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from holdfast.data import Batch
from holdfast.method import Method, Tags
from holdfast.models.heads import GrowingHead

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream


class BoundaryExpand(Method):
    """Boundary expanding (BE): the forget set is trained to be a class that does not exist.

        loss = CE(f'(x), C + 1) over the forget set,   f' = f with one more output

    Afterwards the output is cut off again: what it drew out of the space of the real classes stays.

    Differs from the paper: it unlearns whole classes; here any examples, as the later literature
    does. A plain linear head becomes one that can grow, with the same weights and names.
    """

    tags = Tags(
        family="unlearning",
        title="Boundary unlearning: Rapid forgetting of deep networks via shifting the decision "
        "boundary",
        source="Chen et al., 2023",
        scenarios=frozenset({"class", "domain"}),
        needs=frozenset({"boundaries", "linear head"}),
    )

    def __init__(self) -> None:
        super().__init__()
        self.shadow: int | None = None
        self.full = False

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        told = super().refusal(stream, model)
        head = getattr(model, "head", None)
        if told is None and not isinstance(head, (nn.Linear, GrowingHead)):
            return (
                "BoundaryExpand adds an output to a linear head; the head of "
                f"{type(model).__name__} is a {type(head).__name__}."
            )
        return told

    def setup(self, learner: Learner) -> None:
        self.full = isinstance(learner.model.head, nn.Linear)
        if self.full:
            learner.model.head = GrowingHead.of(learner.model.head)

    def expand(self, learner: Learner, experience: Experience) -> None:
        assert learner.stream is not None
        self.shadow = learner.stream.classes if self.full else learner.known
        learner.model.head.grow(self.shadow + 1)

    def batch(self, learner: Learner, batch: Batch) -> Batch:
        y = batch["y"].clone()
        assert self.shadow is not None
        y[: learner.stream_rows] = self.shadow
        return {**batch, "y": y}

    def predict(self, learner: Learner, batch: Batch, outputs: Tensor) -> Tensor:
        return outputs[:, : self.shadow]

    def end(self, learner: Learner, experience: Experience) -> None:
        head: GrowingHead = learner.model.head
        for name, parameter in list(head.named_parameters()):
            learner.optimizer.state.pop(parameter, None)  # of rows that are no more
            setattr(head, name, nn.Parameter(parameter.detach()[: self.shadow].clone()))
        learner.renew_optimizer()
