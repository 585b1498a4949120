"""Continual test-time adaptation: averaged teachers, and weights put back at random."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from holdfast.data import Batch
from holdfast.errors import UsageError, at_least
from holdfast.losses import distillation
from holdfast.method import Method, Tags
from holdfast.methods.testtime.phase import Rule, adapting, confine, optimizer_of
from holdfast.methods.testtime.views import random_view
from holdfast.models.norms import affine, use_batch_statistics
from holdfast.models.snapshot import Snapshot
from holdfast.optim.averages import follow, put_back
from holdfast.stream import white_in

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience

Answers = Literal["teacher", "student"]
Adapted = Literal["all", "norms"]
View = Callable[[Tensor, torch.Generator], Tensor]


class CoTTA(Method):
    """Continual test-time adaptation: learn from an averaged teacher, and return to the source.

    For every batch x, with student f, teacher g and the frozen source f0:

        c = mean over the batch of max softmax f0(x)
        y = g(x) if c >= threshold, else the mean of the logits g(view_k(x)) of so many views
        loss = CE(softmax y, softmax f(x))                     one step of the student
        g <- alpha g + (1 - alpha) f                           all parameters
        f <- f0 where a coin of chance `restore` says so       every entry of every trained tensor

    What counts is y, from before the step. Batch normalisation goes by the statistics of the batch
    in all three networks. Boundaries between domains are neither told nor needed.

    Args:
        lr: Learning rate.
        alpha: Share of the teacher that stays in a step.
        restore: Chance of an entry to be set back to the source in a step.
        threshold: Confidence of the source below which views are averaged; above 1: always.
        views: How many views are averaged; 0: none ever.
        symmetric: Whether half the loss is the cross-entropy the other way round (ImageNet).
        answers: Whose predictions count: the `teacher`'s, or the `student`'s from before the step.
        adapts: `all` parameters, or `norms`: scales and shifts of normalisation layers.
        per_image: Whether every image has a view of its own; the paper draws one for the batch.
        mirror: Whether views are mirrored by chance; false where left and right mean something, as
            in digits and letters.
        view: A function of inputs and a generator, in place of the paper's views of images.
        optimizer: `adam`, or `sgd` with momentum 0.9.

    Raises:
        UsageError: If an argument is out of range.

    Published for CIFAR-10: as the defaults; CIFAR-100: threshold 0.72; ImageNet: SGD at 0.01,
    restore 0.001, threshold 0.1, symmetric.

    Differs from the paper: teacher and source are in evaluation mode, so that dropout is not at
    work in them; parameters that are named neither `weight` nor `bias` (a transformer's class
    token) adapt too, which the official code forgets; views are computed only where they are used.
    """

    tags = Tags(
        family="test-time",
        title="Continual Test-Time Domain Adaptation",
        source="Wang et al., 2022",
        scenarios=frozenset({"domain"}),
        keeps=frozenset({"model"}),
    )
    replaces_loss = True
    chooses_weights = True
    remembers = ("batches", "averaged", "confidence")

    def __init__(
        self,
        lr: float = 1e-3,
        alpha: float = 0.999,
        restore: float = 0.01,
        threshold: float = 0.92,
        views: int = 32,
        symmetric: bool = False,
        answers: Answers = "teacher",
        adapts: Adapted = "all",
        per_image: bool = False,
        mirror: bool = True,
        view: View | None = None,
        optimizer: Rule = "adam",
    ) -> None:
        super().__init__()
        at_least(0, views=views)
        for name, share in (("alpha", alpha), ("restore", restore)):
            if not 0 <= share <= 1:
                raise UsageError(f"{name} must be from 0 to 1; given: {share}.")
        for name, given, accepted in (
            ("answers", answers, get_args(Answers)),
            ("adapts", adapts, get_args(Adapted)),
        ):
            if given not in accepted:
                raise UsageError(f"{name} must be one of {', '.join(accepted)}; given: {given!r}.")
        if view is not None and not callable(view):
            raise UsageError(f"view must be a function of inputs and a generator; given: {view!r}.")
        self.lr, self.alpha, self.restore, self.threshold = lr, alpha, restore, threshold
        self.views, self.symmetric, self.answers = views, symmetric, answers
        self.adapts, self.per_image, self.mirror = adapts, per_image, mirror
        self.view, self.optimizer = view, optimizer
        self._make = optimizer_of(optimizer, lr)
        self.batches, self.averaged, self.confidence = 0, 0, 0.0

    def setup(self, learner: Learner) -> None:
        self.teacher = Snapshot(lambda: learner.model)
        self.source = Snapshot(lambda: learner.model)

    def expand(self, learner: Learner, experience: Experience) -> None:
        if adapting(learner):
            use_batch_statistics(learner.model)
            chosen: Any = learner.model.parameters()
            if self.adapts == "norms":
                chosen = affine(learner.model).values()
            confine(learner, chosen, self._make)

    def begin(self, learner: Learner, experience: Experience) -> None:
        if adapting(learner) and not self.source.taken:
            self.teacher.take()
            self.source.take()

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        if not adapting(learner):
            return loss
        target = self.target(learner, batch)
        if self.answers == "teacher":
            learner.outputs = target
        found = distillation(outputs, target, temperature=1.0).mean()
        if self.symmetric:
            found = (found + distillation(target, outputs, temperature=1.0).mean()) / 2
        return found

    @torch.no_grad()
    def target(self, learner: Learner, batch: Batch) -> Tensor:
        """The teacher's logits, averaged over views where the source is unsure of the batch."""
        forward = learner.objective.forward
        confidence = float(self.source.outputs(forward, batch).softmax(1).amax(1).mean())
        averaging = self.views > 0 and confidence < self.threshold
        self.batches, self.averaged = self.batches + 1, self.averaged + averaging
        self.confidence += confidence
        if not averaging:
            return self.teacher.outputs(forward, batch)
        total: Tensor | None = None
        for _ in range(self.views):
            seen = {**batch, "x": self.seen(learner, batch["x"])}
            logits = self.teacher.outputs(forward, seen)
            total = logits if total is None else total.add_(logits)
        assert total is not None
        return total / self.views

    def seen(self, learner: Learner, x: Tensor) -> Tensor:
        """One random view of the inputs, in their own unit."""
        if self.view is not None:
            return self.view(x, learner.generator)
        if x.dim() != 4:
            raise UsageError(
                "CoTTA's views are of images (channels, height, width); these inputs have shape "
                f"{tuple(x.shape[1:])}: give a `view` of your own, or views=0."
            )
        assert learner.stream is not None
        white = white_in(x, learner.stream.white)
        return (
            random_view(x.float() / white, learner.generator, self.per_image, self.mirror) * white
        )

    @torch.no_grad()
    def step(self, learner: Learner) -> None:
        if not adapting(learner):
            return
        assert self.teacher.model is not None
        assert self.source.model is not None
        student = list(learner.model.parameters())
        follow(list(self.teacher.model.parameters()), student, self.alpha)
        pairs = zip(student, self.source.model.parameters(), strict=True)
        trained = [(here, there) for here, there in pairs if here.requires_grad]
        put_back([p for p, _ in trained], [p for _, p in trained], self.restore, learner.generator)

    def predict(self, learner: Learner, batch: Batch, outputs: Tensor) -> Tensor:
        if self.answers == "student" or not self.teacher.taken:
            return outputs
        return self.teacher.outputs(learner.objective.forward, batch)

    def report(self) -> dict[str, float]:
        """Share of batches whose views were averaged, and the source's mean confidence."""
        count = max(1, self.batches)
        return {"averaged": self.averaged / count, "confidence": self.confidence / count}
