"""GRACE: edits in a codebook of keys and values on one layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn

from holdfast.data import Table
from holdfast.errors import UsageError, at_least
from holdfast.evaluation import undisturbed
from holdfast.language.objective import IGNORED
from holdfast.language.requests import Written, written
from holdfast.method import Method, Tags
from holdfast.models.codebook import Codebook
from holdfast.models.projections import Projection, projection, refusal, watched

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream

Start = Literal["cold", "warm"]
EDGE = 1e-5
"""By so much the older of two balls that meet is the smaller, so that they do not touch."""


class GRACE(Method):
    """Keep edits in a codebook: in the ball around a key, the layer's output is the key's value.

    The key of an edit is what comes into the layer at the last token of its prompt. If it lies
    further than `radius` plus the nearest ball's radius from that ball's centre, it gets a ball of
    its own. Nearer, an entry with the same target grows to reach it, and one with another target
    meets it half-way. The entry's value is then trained, and nothing else.

    Args:
        layer: Number of the block, or a pattern of its projection's name; None: 35/48 deep.
        radius: Of a new ball.
        lr: Of Adam on the value.
        steps: Of it.
        start: Value before training: `"cold"`: random; `"warm"`: the layer's own output.

    Raises:
        UsageError: If an argument is out of range.

    Differs from the paper: the official code lets every token that is written after the prompt ask
    the codebook too; here an answer follows from the prompt's last token alone, as in training. Two
    targets are the same if their tokens are; there, if their means are. A batch asks row by row.

    Example:
        >>> GRACE(radius=3.0).start
        'cold'
    """

    tags = Tags(
        family="editing",
        title="Aging with GRACE: Lifelong Model Editing with Discrete Key-Value Adaptors",
        source="Hartvigsen et al., 2023",
        scenarios=frozenset({"text"}),
        needs=frozenset({"transformer blocks", "boundaries"}),
        keeps=frozenset({"parameters"}),
    )
    replaces_training = True

    def __init__(
        self,
        layer: int | str | None = None,
        radius: float = 1.0,
        lr: float = 1.0,
        steps: int = 50,
        start: Start = "cold",
    ) -> None:
        super().__init__()
        at_least(1, steps=steps)
        for name, value in (("radius", radius), ("lr", lr)):
            if not value > 0:
                raise UsageError(f"{name} must be above 0; given: {value}.")
        if start not in get_args(Start):
            raise UsageError(f"start must be 'cold' or 'warm'; given: {start!r}.")
        self.layer, self.radius, self.lr, self.steps, self.start = layer, radius, lr, steps, start
        self.book = Codebook()

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        return super().refusal(stream, model) or refusal("GRACE", self.layer, model)

    def setup(self, learner: Learner) -> None:
        self.book.attach(learner.model, self.place(learner.model))

    def expand(self, learner: Learner, experience: Experience) -> None:
        learner.model.requires_grad_(False)

    def fit(self, learner: Learner, table: Table) -> bool:
        rows = written(table, [])
        for row in range(len(table)):
            request = rows.take(torch.tensor([row], device=learner.device))
            with undisturbed(learner.model):
                query, output = self.asked(learner, request)
            labels = request.labels[0, 0]
            target = labels[labels != IGNORED].tolist()
            entry = self.entry(query, output, target, learner.generator)
            self.train_value(learner, request, entry)
        return True

    def asked(self, learner: Learner, request: Written) -> tuple[Tensor, Tensor]:
        """What comes into the layer at the last token of the prompt, and what its weights make."""
        at = int(request.last[0, 0])
        module = self.place(learner.model).module
        with watched(module) as seen:
            learner.model(input_ids=request.ids[0, :, : at + 1], use_cache=False)
        query = seen.inputs[0, at]
        return query, module.forward(query[None])[0]  # by its weights alone, without the codebook

    def entry(
        self, query: Tensor, output: Tensor, target: list[int], generator: torch.Generator
    ) -> int:
        """The codebook's entry for a request, made or grown; its number."""
        book = self.book
        value = output.detach().clone()
        if self.start == "cold":
            value = torch.rand(output.shape, generator=generator, device=output.device)
            value = value.to(output.dtype)
        if book.keys is None:
            return self.add(query, value, target, self.radius)
        assert book.radii is not None
        (near,), (distance,) = book.nearest(query[None])
        near_, far = int(near), float(distance)
        if far > self.radius + float(book.radii[near_]):
            return self.add(query, value, target, self.radius)
        if book.labels[near_] == target:
            book.radii[near_] = max(far, float(book.radii[near_]))
            return near_
        book.radii[near_] = far / 2 - EDGE
        return self.add(query, value, target, far / 2)

    def add(self, key: Tensor, value: Tensor, target: list[int], radius: float) -> int:
        """One more entry; its number."""
        book = self.book
        size = torch.tensor([radius], device=key.device)

        def stacked(held: Tensor | None, more: Tensor) -> Tensor:
            return more if held is None else torch.cat([held, more])

        book.keys = stacked(book.keys, key.detach()[None])
        book.values = stacked(book.values, value[None])
        book.radii = stacked(book.radii, size)
        book.labels = [*book.labels, target]
        return len(book.labels) - 1

    def train_value(self, learner: Learner, request: Written, entry: int) -> None:
        """Train the value of one entry on one request."""
        model, book = learner.model, self.book
        assert book.values is not None
        value = book.values[entry].detach().clone().requires_grad_(True)
        optimizer = torch.optim.Adam([value], lr=self.lr)
        batch = request.batch()
        modes = model.training
        model.eval()
        book.at, book.trained = request.last[:, 0], value
        try:
            for _ in range(self.steps):
                optimizer.zero_grad()
                outputs = learner.objective.forward(model, batch)
                loss = learner.objective.loss(outputs, batch)
                loss.backward()
                optimizer.step()
        finally:
            book.at, book.trained = None, None
            model.train(modes)
        book.values[entry] = value.detach()
        learner.note(loss=float(loss.detach()), entries=len(book.labels))

    def finish(self, model: nn.Module) -> Codebook:
        """The codebook, off the model."""
        self.book.detach(model)
        return self.book

    def place(self, model: nn.Module) -> Projection:
        """The value projection whose outputs are replaced."""
        return projection(model, self.layer, 35 / 48)
