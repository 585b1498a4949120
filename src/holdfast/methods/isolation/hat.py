"""HAT: hard attention to the task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from holdfast.data import Batch
from holdfast.errors import UsageError
from holdfast.method import Method, Tags
from holdfast.methods.isolation.rows import refusal_of_head
from holdfast.models.classifier import Classifier
from holdfast.models.gates import Gate, Plan, Switch, install, plan, standing
from holdfast.models.heads import class_rows
from holdfast.models.norms import affine, fix_statistics
from holdfast.optim.masked import ScaledUpdates

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream

STEEPEST = 50.0
"""Bound on s e in the cosh of the compensation, which overflows beyond."""

FARTHEST = 6.0
"""Bound on the embeddings, behind which a sigmoid has no slope to come back by."""


class HAT(Method):
    """Hard attention to the task: gates learn which units a task uses, and protect them after it.

    Each unit's answer is multiplied by its gate, with an embedding e_t of every layer for task t:

        a_t = sigmoid(s e_t),     A = max(a_1, ..., a_{t-1})  at s_max
        s     = 1/s_max + (s_max - 1/s_max) (b - 1) / (B - 1)      in batch b of an epoch's B
        loss  = loss(B) + sparsity sum a_t (1 - A) / sum (1 - A)
        dW_ij = (1 - min(A_i, A_j)) dW_ij                   to unit i from unit j of the layer below
        de    = s_max (cosh(s e) + 1) / (s (cosh(e) + 1)) de          then e is clamped to +-6

    with sums over the units of all layers, |s e| <= 50 inside the cosh, A_j = 1 for inputs of the
    model. At test s = s_max and each row has the gates of its own task. Gates stand behind every
    activation, by channel behind convolutions, and behind the sum of every residual block.

    Rows of the head belong to the task of their class. Batch normalisation, which the paper's
    networks have not, is trained in the first experience and stays as it is after that.

    Args:
        sparsity: c, how strongly a task is kept from using units that no earlier one uses.
        s_max: Largest s. Gates are as good as open or shut at the end of an epoch.

    Raises:
        UsageError: If an argument is out of range.

    Differs from the paper: the step along a gradient is scaled, not the gradient, which is the
    same under SGD, with or without momentum, and keeps what is protected in its place under weight
    decay and Adam too. An epoch of a single batch has s = s_max.
    """

    tags = Tags(
        family="isolation",
        title="Overcoming catastrophic forgetting with hard attention to the task",
        source="Serrà et al., 2018",
        scenarios=frozenset({"task"}),
        needs=frozenset({"features", "boundaries"}),
        keeps=frozenset({"parameters"}),
    )
    works_inside = True
    chooses_weights = True

    def __init__(self, sparsity: float = 0.75, s_max: float = 400.0) -> None:
        super().__init__()
        if not sparsity >= 0:
            raise UsageError(f"sparsity must be at least 0; given: {sparsity}.")
        if not s_max >= 1:
            raise UsageError(f"s_max must be at least 1; given: {s_max}.")
        self.sparsity, self.s_max = sparsity, s_max
        self.used: Tensor | None
        self.register_buffer("used", None)  # A, of the units of all gates, one after another
        self.switch = Switch()
        self._plan = Plan()
        self._gates: list[Gate] = []  # parts of the model
        self._updates: ScaledUpdates | None = None

    def setup(self, learner: Learner) -> None:
        assert learner.stream is not None
        self.switch = Switch(sharpness=self.s_max)
        self._plan = plan(learner.model.backbone)
        self._gates = install(self._plan, len(learner.stream), self.switch)
        for gate in self._gates:
            gate.to(learner.device)
            gate.embedding.data.normal_(generator=learner.generator)
        units = sum(units for _, _, units in self._plan.places)
        self.register_buffer("used", torch.zeros(units, device=learner.device))

    def expand(self, learner: Learner, experience: Experience) -> None:
        self.switch.task = experience.index
        if experience.index:
            for parameter in affine(learner.model).values():
                parameter.requires_grad_(False)
            fix_statistics(learner.model)

    def begin(self, learner: Learner, experience: Experience) -> None:
        self._updates = None

    def answer(self, learner: Learner, batch: Batch) -> Tensor:
        task: int | Tensor = batch["task"]
        sharpness = self.s_max
        if learner.model.training:
            sharpness = self.sharpness(learner)
            if task is learner.incoming.get("task"):  # nothing mixed in: one gate for all rows
                task = learner.index
        with standing(self.switch, task, sharpness):
            return learner.objective.forward(learner.model, batch)

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        assert self.used is not None
        free = 1 - self.used
        attention = self.attention(learner.index, self.sharpness(learner))
        tiny = torch.finfo(free.dtype).tiny  # no unit may be free
        return loss + self.sparsity * (attention * free).sum() / free.sum().clamp_min(tiny)

    @torch.no_grad()
    def gradients(self, learner: Learner) -> None:
        s = self.sharpness(learner)
        rows = self._rows(learner)
        slopes = [e.grad[learner.index] for e in self._embeddings() if e.grad is not None]
        steep = torch._foreach_clamp_max(torch._foreach_mul(rows, s), STEEPEST)
        torch._foreach_clamp_min_(steep, -STEEPEST)
        torch._foreach_cosh_(steep)
        torch._foreach_add_(steep, 1)
        flat = torch._foreach_cosh(rows)
        torch._foreach_add_(flat, 1)
        torch._foreach_div_(steep, flat)
        torch._foreach_mul_(steep, self.s_max / s)
        torch._foreach_mul_(slopes, steep)
        if self._updates is None:  # not in `begin`, which a resumed experience has behind it
            self._updates = ScaledUpdates(self._factors(learner))
        self._updates.before()

    @torch.no_grad()
    def step(self, learner: Learner) -> None:
        assert self._updates is not None
        self._updates.after()
        rows = self._rows(learner)
        torch._foreach_clamp_max_(rows, FARTHEST)
        torch._foreach_clamp_min_(rows, -FARTHEST)

    @torch.no_grad()
    def end(self, learner: Learner, experience: Experience) -> None:
        assert self.used is not None
        attention = self.attention(experience.index, self.s_max)
        self.used = self.used.maximum(attention)
        learner.note(units_of_task=float(attention.mean()), units_used=float(self.used.mean()))
        self._updates = None

    def release(self, learner: Learner) -> None:
        self._updates = None

    def sharpness(self, learner: Learner) -> float:
        """s of the update at hand: from 1/s_max to s_max within every epoch."""
        batches, together = learner.batches, learner.accumulate
        if batches is None:
            return self.s_max
        last = -(-batches.per_epoch // together) - 1
        done = -(-batches.position // (batches.batch_size * together)) - 1
        if last < 1:
            return self.s_max
        return 1 / self.s_max + (self.s_max - 1 / self.s_max) * max(done, 0) / last

    def attention(self, task: int, sharpness: float) -> Tensor:
        """The gates of a task, all layers' one after another."""
        return (sharpness * torch.cat([e[task] for e in self._embeddings()])).sigmoid()

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        reason = super().refusal(stream, model) or refusal_of_head("HAT", stream, model)
        if reason is not None:
            return reason
        if not isinstance(model, Classifier):
            return (
                f"HAT gates the layers of a backbone, and {type(model).__name__} has none by that "
                "name: give a holdfast.models.Classifier(backbone, head)."
            )
        try:
            plan(model.backbone)
        except UsageError as unfit:
            return (
                f"HAT gates the units of mlp, cnn, resnet18 and plain sequences of layers; this "
                f"backbone is another. {unfit}"
            )
        return None

    # Inside.

    def _rows(self, learner: Learner) -> list[Tensor]:
        """The embeddings of the task at hand, to be changed in place."""
        return [embedding.detach()[learner.index] for embedding in self._embeddings()]

    def _embeddings(self) -> list[nn.Parameter]:
        return [gate.embedding for gate in self._gates]

    def _factors(self, learner: Learner) -> list[tuple[nn.Parameter, Tensor]]:
        """How far each parameter may move: all of them but normalisations, which are frozen."""
        embeddings = self._embeddings()
        found = []
        for embedding in embeddings:
            mine = torch.arange(len(embedding), device=embedding.device) == learner.index
            found.append((embedding, mine.to(embedding.dtype).unsqueeze(1)))
        if not learner.index:  # nothing is used
            return found
        assert self.used is not None
        used = list(self.used.split([embedding.shape[1] for embedding in embeddings]))
        for wire in self._plan.wires:
            for name, parameter in wire.layer.named_parameters():
                opened = self._plan.open(wire, used) if name == "weight" else 1 - used[wire.behind]
                found.append((parameter, opened))
        rows = class_rows(learner.model.head, learner.experience.classes)
        return found + [(parameter, mask.to(parameter.dtype)) for parameter, mask in rows]
