"""Efficient test-time adaptation without forgetting."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast.data import Batch, Table
from holdfast.errors import StreamRefused, UsageError
from holdfast.losses import entropy, quadratic_penalty
from holdfast.memory.known import known
from holdfast.memory.parameters import ParameterStore
from holdfast.method import Method, Tags
from holdfast.methods.testtime.phase import Rule, adapting, confine, optimizer_of
from holdfast.models.norms import affine, own_statistics, use_batch_statistics
from holdfast.optim.fisher import fisher_diagonal

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience


class EATA(Method):
    """Efficient anti-forgetting test-time adaptation: entropy, of samples worth it, held in place.

        loss = mean over kept x of exp(E0 - H(x)) H(x)  +  strength sum_i F_i (theta_i - theta0_i)^2

    H is the entropy of the model's answer p(x). A sample is kept if it is reliable, H(x) < E0 with
    E0 = margin ln C for C classes, and not redundant, |cos(p(x), m)| < redundancy, with m a running
    mean of the kept answers, m <- 0.9 m + 0.1 mean p. No step is made if none is kept. Only scales
    and shifts of normalisation layers adapt; F is their Fisher information on images of the
    source, under the labels that the source model gives them.

    Args:
        lr: Learning rate.
        margin: E0 as a share of the largest entropy, ln C.
        redundancy: Largest cosine to the running mean; None: 0.4 for up to 100 classes and 0.05
            above, as published for CIFAR-10 and ImageNet.
        strength: Of the anchor; 0: none, and no images of the source are needed. Published: 1 for
            CIFAR-10 and 2000 for ImageNet. The step is stable while twice the rate times the
            strength times the largest importance stays below 2 (4 with momentum 0.9).
        examples: Images of the source for the Fisher information, at most.
        optimizer: `sgd` with momentum 0.9, or `adam`.

    Raises:
        UsageError: If an argument is out of range.

    Differs from the paper: the Fisher information is taken example by example with the source's
    own statistics of batch normalisation; the official code squares the gradients of whole batches
    under batch statistics, which are smaller, so that equal strengths hold more firmly here. A
    reset also empties the running mean.
    """

    tags = Tags(
        family="test-time",
        title="Efficient Test-Time Model Adaptation without Forgetting",
        source="Niu et al., 2022",
        scenarios=frozenset({"domain"}),
        needs=frozenset({"norm layers"}),
        keeps=frozenset({"parameters"}),
    )
    replaces_loss = True
    chooses_weights = True
    remembers = ("seen", "reliable", "kept")

    def __init__(
        self,
        lr: float = 2.5e-4,
        margin: float = 0.4,
        redundancy: float | None = None,
        strength: float = 1.0,
        examples: int = 2000,
        optimizer: Rule = "sgd",
    ) -> None:
        super().__init__()
        for name, value in (("margin", margin), ("redundancy", redundancy)):
            if value is not None and not value > 0:
                raise UsageError(f"{name} must be above 0; given: {value}.")
        if not strength >= 0 or examples < 1:
            raise UsageError(
                "strength must be at least 0 and examples at least 1; given: "
                f"{strength} and {examples}."
            )
        self.lr, self.margin, self.redundancy = lr, margin, redundancy
        self.strength, self.examples, self.optimizer = strength, examples, optimizer
        self._make = optimizer_of(optimizer, lr)
        self.anchor, self.importance = ParameterStore(), ParameterStore()
        self.mean_answer: Tensor | None
        self.register_buffer("mean_answer", None)
        self.seen = self.reliable = self.kept = 0
        self._step_due = False

    def expand(self, learner: Learner, experience: Experience) -> None:
        if adapting(learner):
            use_batch_statistics(learner.model)
            confine(learner, affine(learner.model).values(), self._make)

    def inherit(self, learner: Learner) -> None:
        if not self.strength:
            return
        assert learner.stream is not None
        if learner.stream.past is None:
            raise StreamRefused(
                "EATA holds weights by images like the source's, and there are none: give them as "
                "past, or strength=0 to do without."
            )
        past = known(learner, self.examples)
        assert past is not None
        self.hold(learner, past)

    def end(self, learner: Learner, experience: Experience) -> None:
        if self.strength and not adapting(learner):
            self.hold(learner, experience.train)

    def hold(self, learner: Learner, table: Table) -> None:
        """Anchor the scales and shifts as they are, as firmly as they matter for images."""
        model, chosen = learner.model, affine(learner.model)
        trained = [p for p in model.parameters() if p.requires_grad]
        rows = torch.randperm(
            len(table), generator=learner.generator, device=learner.generator.device
        )
        table = table.take(rows[: self.examples].to(table.device)).to(learner.device)
        try:
            model.requires_grad_(False)
            for parameter in chosen.values():
                parameter.requires_grad_(True)
            with own_statistics(model):
                table = table.with_columns(y=_answers(learner, table))
                fisher = fisher_diagonal(learner, table, "empirical")
        finally:
            model.requires_grad_(False)
            for parameter in trained:
                parameter.requires_grad_(True)
        names = [name for name, _ in model.named_parameters() if name in chosen]
        self.importance.put(zip(names, fisher, strict=True))
        self.anchor.put((name, chosen[name]) for name in names)

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        if not adapting(learner):
            return loss
        unsure = entropy(outputs)
        answers, classes = outputs.detach().softmax(1), outputs.shape[1]
        sure_enough = self.margin * math.log(classes)
        reliable = unsure.detach() < sure_enough
        kept = reliable
        if self.mean_answer is not None:
            near = self.redundancy or (0.4 if classes <= 100 else 0.05)
            cosine = F.cosine_similarity(self.mean_answer[None], answers, dim=1)
            kept = reliable & (cosine.abs() < near)
        counts = torch.stack([reliable.sum(), kept.sum()]).tolist()
        self.seen += len(outputs)
        self.reliable, self.kept = self.reliable + counts[0], self.kept + counts[1]
        self._step_due = counts[1] > 0
        if self._step_due:
            mean = answers[kept].mean(0)
            self.mean_answer = (
                mean if self.mean_answer is None else self.mean_answer.lerp(mean, 0.1)
            )
        weight = (sure_enough - unsure.detach()).exp() * kept
        total: Tensor = (weight * unsure).sum() / max(1, counts[1])
        if self.importance:
            anchor, importance = (s.get(learner.named) for s in (self.anchor, self.importance))
            # The penalty is half a sum of squares.
            total = total + 2 * self.strength * quadratic_penalty(
                learner.parameters, anchor, importance
            )
        return total

    def gradients(self, learner: Learner) -> None:
        if adapting(learner) and not self._step_due:
            for parameter in learner.parameters:
                parameter.grad = None  # the optimizer passes it over: no step

    def report(self) -> dict[str, float]:
        """Shares of all samples so far that were reliable, and that were kept."""
        seen = max(1, self.seen)
        return {"reliable": self.reliable / seen, "kept": self.kept / seen}


def _answers(learner: Learner, table: Table) -> Tensor:
    """The labels that the model gives, in evaluation mode."""
    from holdfast.evaluation import undisturbed

    with undisturbed(learner.model, device=learner.device):
        parts = [learner.objective.forward(learner.model, batch) for batch in table.chunks(256)]
    labels: Tensor = torch.cat(parts).argmax(1)
    return labels
