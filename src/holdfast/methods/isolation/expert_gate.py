"""Expert gate: an expert for every experience, and autoencoders that know whose an example is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from holdfast.data import Batch, Table, columns
from holdfast.errors import UsageError, at_least
from holdfast.evaluation import in_passing, undisturbed
from holdfast.losses import distillation
from holdfast.memory.remembers import Remembers
from holdfast.method import Method, Tags
from holdfast.models.reconstruction import Autoencoders
from holdfast.models.snapshot import Snapshot
from holdfast.optim.carry import grown

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream

Features = Literal["inputs", "backbone"]

SOFTENED = 2.0
"""Temperature of the distillation, as in learning without forgetting."""

APART = 1e4
"""What the logits of classes that are not an expert's own are put down by."""

ROWS = 1024
"""Examples whose features are computed at a time."""


class ExpertGate(Method):
    """Expert gate: one expert an experience, started from the most related one, and a gate.

        begin t    A_t: an autoencoder of z, trained on experience t by cross-entropy
                   Rel(t, a) = 1 - (Er_a - Er_t) / Er_t,   a* = arg max_a Rel(t, a)
                   theta <- expert a*
        loss       CE(B), and if Rel(t, a*) > related
                   + alpha T^2 KD(f_a*(x)/T, f(x)/T) over the classes of a*, T = 2
        end t      expert t <- theta
        use        the expert of the largest p_a = softmax_a(-er_a(x) / temperature)

    with er_a(x) = |A_a(z) - z|^2, Er_a its mean over held-out examples of experience t, and
    z = sigmoid((phi(x) - mean) / deviation) the features of a frozen extractor phi, standardised as
    those of the first experience. An expert answers for the classes of its experience alone. No
    task is told at use; where the stream tells it (task-incremental), that task's expert answers.

    What was found is noted when an experience begins: `relatedness` by expert, the `parent`, and
    how it was started from, by `transfer`: `lwf` or `finetune`.

    Args:
        code: Hidden units of an autoencoder, fewer than its inputs; None: 100, or half as many as
            inputs where these are less than 200.
        related: Above which relatedness the parent's answers are distilled; below, a copy of it is
            only fine-tuned.
        alpha: Weight of the distillation.
        temperature: Of the gate.
        features: phi: the `inputs` as they are, or the model's `backbone` as it came, which should
            then be a pre-trained one.
        epochs: Passes over an experience for its autoencoder.
        rate: Learning rate of the autoencoder, under Adagrad.

    Raises:
        UsageError: If a number is out of range, if there are no such features, or if there are not
            more of them than hidden units.

    Differs from the paper: it standardises by the data of a pre-trained extractor, here by those of
    the first experience. LwF warms the head up before it trains all; here it does not. Of the
    experts only one answers an example, where the paper can also ask all with p_a > 0.1. All
    weights that are trained are copied for an expert, lower layers too. Deviations below a tenth
    of the largest count as that.

    Source: Aljundi, Chakravarty and Tuytelaars, "Expert gate: lifelong learning with a network of
    experts" (2017).

    Example:
        >>> ExpertGate(code=50).related
        0.85
    """

    tags = Tags(
        family="isolation",
        title="Expert gate: lifelong learning with a network of experts",
        source="Aljundi et al., 2017",
        needs=frozenset({"boundaries"}),
        keeps=frozenset({"model", "prototypes"}),
    )
    remembers = ("parent", "distils")
    size_known = False

    def __init__(
        self,
        code: int | None = None,
        related: float = 0.85,
        alpha: float = 1.0,
        temperature: float = 2.0,
        features: Features = "inputs",
        epochs: int = 20,
        rate: float = 0.05,
    ) -> None:
        super().__init__()
        at_least(1, code=code, epochs=epochs)
        at_least(0, alpha=alpha)
        for name, number in (("temperature", temperature), ("rate", rate)):
            if not number > 0:
                raise UsageError(f"{name} must be above 0; given: {number}.")
        if features not in get_args(Features):
            accepted = " or ".join(get_args(Features))
            raise UsageError(f"features must be {accepted}; given: {features!r}.")
        self.code, self.related, self.alpha = code, related, alpha
        self.temperature, self.features = temperature, features
        self.epochs, self.rate = epochs, rate
        self.experts = nn.ModuleList()
        self.autoencoders = Autoencoders(epochs, rate)
        self.parent: int | None = None  # of the experience at hand
        self.distils = False
        self.register_buffer("mean", None)
        self.register_buffer("deviation", None)
        self._foreign: dict[int, slice | list[int]] = {}  # by how many logits there are

    def setup(self, learner: Learner) -> None:
        self.extractor = Snapshot(lambda: learner.model, kept_for="use")

    def expand(self, learner: Learner, experience: Experience) -> None:
        while len(self.experts) <= experience.index:
            self.experts.append(Expert())
        self._foreign = {}

    def begin(self, learner: Learner, experience: Experience) -> None:
        table = experience.train
        if self.mean is None:
            self._standardise(learner, table)
        z = self.described(learner, table)
        order = torch.randperm(len(z), generator=learner.generator, device=learner.device)
        held = max(1, len(z) // 10)
        rest = order[held:] if held < len(z) else order
        self.autoencoders.learn(z[rest], self.hidden(z.shape[1]), learner.generator)
        errors = self.autoencoders.errors(z[order[:held]]).mean(0)
        self.parent, self.distils = None, False
        if len(errors) > 1:
            relatedness = (1 - (errors[:-1] - errors[-1]) / errors[-1]).tolist()
            self.parent = max(range(len(relatedness)), key=relatedness.__getitem__)
            self.distils = relatedness[self.parent] > self.related
            self._expert(self.parent).give(learner.model)
            learner.note(
                relatedness=relatedness,
                parent=self.parent,
                transfer="lwf" if self.distils else "finetune",
            )

    def logits(self, learner: Learner, batch: Batch, outputs: Tensor) -> Tensor:
        masked = outputs.clone()
        masked[: learner.stream_rows, self._others(learner, outputs.shape[1])] = -torch.inf
        return masked

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        if not self.distils or self.parent is None:
            return loss
        with in_passing(learner.model):
            old = self._answers(learner, batch, self.parent)
        assert learner.stream is not None
        classes = columns(learner.stream[self.parent].classes)
        kept = distillation(outputs[:, classes], old[:, classes], SOFTENED)
        return loss + self.alpha * SOFTENED**2 * learner.objective.mean(kept, batch)

    def end(self, learner: Learner, experience: Experience) -> None:
        self._expert(experience.index).take(learner.model)

    def answer(self, learner: Learner, batch: Batch) -> Tensor:
        if learner.model.training or not len(self.autoencoders):
            return learner.objective.forward(learner.model, batch)
        chosen = self.chosen(learner, batch)
        present = chosen.unique().tolist()
        if len(present) == 1:
            return self._own(learner, batch, present[0])
        rows = [(chosen == expert).nonzero().squeeze(1) for expert in present]
        parts = [
            self._own(learner, {name: column[of] for name, column in batch.items()}, expert)
            for expert, of in zip(present, rows, strict=True)
        ]
        return torch.cat(parts)[torch.cat(rows).argsort()]

    def chosen(self, learner: Learner, batch: Batch) -> Int[Tensor, " examples"]:
        """The expert that answers each example."""
        assert learner.stream is not None
        if learner.stream.scenario == "task":  # of tasks still to come there is no expert
            return batch["task"].clamp(max=len(self.autoencoders) - 1)
        return self.gate(learner, batch).argmax(1)

    def gate(self, learner: Learner, batch: Batch) -> Float[Tensor, "examples experts"]:
        """How likely an example is of each expert's experience."""
        errors = self.autoencoders.errors(self._features(learner, batch))
        return (-errors / self.temperature).softmax(1)

    def described(self, learner: Learner, table: Table) -> Float[Tensor, "examples numbers"]:
        """z of all examples of a table."""
        with undisturbed(learner.model, device=learner.device):
            parts = [self._features(learner, b) for b in table.to(learner.device).chunks(ROWS)]
        return torch.cat(parts)

    def hidden(self, inputs: int) -> int:
        """Hidden units of an autoencoder of so many inputs."""
        if self.code is None:
            return min(100, max(1, inputs // 2))
        if self.code >= inputs:
            raise UsageError(
                f"code must be less than the {inputs} features that an autoencoder sees, which "
                f"it would only copy otherwise; given: {self.code}."
            )
        return self.code

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        if self.features == "backbone" and not hasattr(model, "features"):
            return (
                "ExpertGate with features='backbone' needs a model split into backbone and head, "
                f"and {type(model).__name__} is none: give a holdfast.models.Classifier(backbone, "
                "head), or features='inputs'."
            )
        return super().refusal(stream, model)

    # Inside.

    def _expert(self, index: int) -> Expert:
        expert = self.experts[index]
        assert isinstance(expert, Expert)
        return expert

    def _raw(self, batch: Batch) -> Tensor:
        if self.features == "inputs":
            return batch["x"].flatten(1).float()
        assert self.extractor.model is not None
        found: Tensor = self.extractor.model.features(batch["x"])  # type: ignore[operator]
        return found

    def _features(self, learner: Learner, batch: Batch) -> Float[Tensor, "examples numbers"]:
        assert self.mean is not None
        with torch.no_grad():
            return ((self._raw(batch) - self.mean) / self.deviation).sigmoid()

    def _standardise(self, learner: Learner, table: Table) -> None:
        """Note mean and deviation of the features of the first experience."""
        if self.features == "backbone":
            self.extractor.take()
        with undisturbed(learner.model, device=learner.device):
            raw = torch.cat([self._raw(b) for b in table.to(learner.device).chunks(ROWS)])
        deviation = raw.std(0, correction=0)
        # What hardly varies would be blown up where it does later.
        self.deviation = deviation.clamp(min=1e-1 * float(deviation.max()) or 1.0)
        self.mean = raw.mean(0)

    def _others(self, learner: Learner, width: int) -> slice | list[int]:
        """The logits of classes that are not of the experience at hand."""
        if width not in self._foreign:
            own = learner.experience.classes
            self._foreign[width] = columns([c for c in range(width) if c not in own])
        return self._foreign[width]

    def _answers(self, learner: Learner, batch: Batch, expert: int) -> Tensor:
        """What an expert answers; for the experience at hand the model itself."""
        held = self._expert(expert)
        if not held.taken:
            return learner.objective.forward(learner.model, batch)
        weights = held.weights(learner.model)

        def network(*inputs: Any) -> Any:
            return functional_call(learner.model, weights, inputs)

        return learner.objective.forward(network, batch)

    def _own(self, learner: Learner, batch: Batch, expert: int) -> Tensor:
        """An expert's answers, those for classes that are not its own put down."""
        assert learner.stream is not None
        outputs = self._answers(learner, batch, expert)
        answers = outputs - APART
        own = columns([c for c in learner.stream[expert].classes if c < outputs.shape[1]])
        answers[:, own] = outputs[:, own]
        return answers


class Expert(Remembers):
    """A copy of all that is trained in a model, and of what it counts of its data."""

    @property
    def taken(self) -> bool:
        return any(tensor is not None for tensor in self._buffers.values())

    def take(self, model: nn.Module) -> None:
        """Copy the model as it is now."""
        for name, tensor in _changing(model):
            self.register_buffer(name.replace(".", "/"), tensor.detach().clone())

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """Its tensors by name, in the model's present shapes."""
        return {
            name: grown(self.get_buffer(name.replace(".", "/")), tensor.shape)
            for name, tensor in _changing(model)
        }

    @torch.no_grad()
    def give(self, model: nn.Module) -> None:
        """Let the model be as this expert is; what it has gained since stays as it is."""
        for name, tensor in _changing(model):
            held = self.get_buffer(name.replace(".", "/"))
            tensor[tuple(slice(length) for length in held.shape)] = held


def _changing(model: nn.Module) -> Sequence[tuple[str, Tensor]]:
    """What training changes in a model, by name."""
    kept = {name for name, p in model.named_parameters() if not p.requires_grad}
    return [(name, t) for name, t in model.state_dict(keep_vars=True).items() if name not in kept]
