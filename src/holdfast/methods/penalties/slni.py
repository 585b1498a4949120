"""Sparse coding through local neural inhibition: leave units for what is still to come."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.data import Batch, Table
from holdfast.errors import UsageError, at_least
from holdfast.evaluation import undisturbed
from holdfast.method import Method, Tags
from holdfast.models.classifier import Classifier
from holdfast.models.gates import plan
from holdfast.models.hidden import Hidden
from holdfast.optim.gradient_sums import ROWS, drawn

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream


class SLNI(Method):
    """Sparse coding through local neural inhibition, with a discount (SLNID): selfless learning.

        loss = loss(B) + strength sum_l sum_{i != j} w_ij exp(-(alpha_i + alpha_j))
                                        | mean over x in B of h_i(x) h_j(x) |
        w_ij = exp(-(i - j)^2 / (2 sigma^2)),   sigma = units of the layer / scale
        end    alpha_i <- alpha_i + mean over x in D_t of |d |f(x)|^2 / d h_i|

    with h_i the answers of the hidden units of layer l, and f(x) the logits: of its own task's
    classes where the task is known. Units that lie near one another inhibit each other, so that few
    answer at a time and the others stay free. The importance alpha is 0 at first; units that
    mattered for earlier experiences are let off. It keeps nothing by itself: chain it with what
    holds weights, `mas+slni` or `ewc+slni`.

    Args:
        strength: lambda, the weight of the penalty: a sum over pairs of units, so that wide layers
            want a smaller one.
        scale: How many deviations of the Gaussian a layer is wide; None: all pairs of a layer
            count alike.
        discount: Whether units that mattered before are let off; if not, this is SLNI.
        examples: Examples of an experience used to estimate alpha; None: all.

    Raises:
        UsageError: If a number is out of range.

    Differs from the paper: of convolutions a unit is a channel, its answer the mean over the
    picture; the paper leaves them alone. Importance is the gradient by a unit's answer, in the
    authors' code that by its input: they differ for units that are silent.

    Source: Aljundi, Rohrbach and Tuytelaars, "Selfless sequential learning" (2019).

    Example:
        >>> SLNI(scale=None, discount=False).strength
        0.001
    """

    tags = Tags(
        family="penalty",
        title="Selfless sequential learning",
        source="Aljundi et al., 2019",
        needs=frozenset({"features", "boundaries"}),
        keeps=frozenset({"parameters"}),
    )
    shares_passes = False

    def __init__(
        self,
        strength: float = 0.001,
        scale: float | None = 6.0,
        discount: bool = True,
        examples: int | None = None,
    ) -> None:
        super().__init__()
        at_least(0, strength=strength)
        at_least(1, examples=examples)
        if scale is not None and not scale > 0:
            raise UsageError(f"scale must be above 0, or none for all pairs; given: {scale}.")
        self.strength, self.scale = strength, scale
        self.discount, self.examples = discount, examples
        self._hidden: Hidden | None = None
        self.near = nn.ModuleList()  # a layer each

    def setup(self, learner: Learner) -> None:
        places = plan(learner.model.backbone).places
        self.near = nn.ModuleList(Locality(units, self.scale) for _, _, units in places)
        self.near.to(learner.device)

    def batch(self, learner: Learner, batch: Batch) -> Batch:
        self.hidden(learner).open()  # not in `begin`, which a resumed experience has behind it
        return batch

    def logits(self, learner: Learner, batch: Batch, outputs: Tensor) -> Tensor:
        self.hidden(learner).close()  # before other methods make passes for their losses
        return outputs

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        answers = self.hidden(learner).take()
        terms = [
            inhibition(_by_unit(h), near, self.importance(place))
            for place, (h, near) in enumerate(zip(answers, self.weights, strict=True))
        ]
        return loss + self.strength * torch.stack(terms).sum()

    def end(self, learner: Learner, experience: Experience) -> None:
        if self.discount and learner.step and not learner.last:
            for place, new in enumerate(self.sensitivity(learner, experience.train)):
                old = self.importance(place)
                self.register_buffer(_key(place), new if old is None else old + new)
        self.release(learner)

    def release(self, learner: Learner) -> None:
        if self._hidden is not None:
            self._hidden.remove()
        self._hidden = None

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        reason = super().refusal(stream, model)
        if reason is not None:
            return reason
        if not isinstance(model, Classifier):
            return (
                f"SLNI looks at the hidden units of a backbone, and {type(model).__name__} has "
                "none by that name: give a holdfast.models.Classifier(backbone, head)."
            )
        try:
            plan(model.backbone)
        except UsageError as unfit:
            return (
                "SLNI looks at the units of mlp, cnn, resnet18 and plain sequences of layers; this "
                f"backbone is another. {unfit}"
            )
        return None

    @property
    def weights(self) -> list[Tensor]:
        """w of each layer."""
        return [near.get_buffer("weight") for near in self.near]

    def importance(self, place: int) -> Float[Tensor, " units"] | None:
        """alpha of a layer's units; None before anything has been learned."""
        return self._buffers.get(_key(place))

    def hidden(self, learner: Learner) -> Hidden:
        """What looks at the hidden units."""
        if self._hidden is None:
            self._hidden = Hidden(learner.model.backbone)
        return self._hidden

    def sensitivity(self, learner: Learner, table: Table) -> list[Float[Tensor, " units"]]:
        """How fast the outputs' squared length changes with each unit: mean over examples.

        In evaluation mode, where one pass tells of all examples: none depends on another.
        """
        table = drawn(learner, table, self.examples)
        hidden, objective = self.hidden(learner), learner.objective
        sums = [torch.zeros(len(near), device=learner.device) for near in self.weights]
        with undisturbed(learner.model, device=learner.device), hidden.watching():
            for batch in table.to(learner.device).chunks(ROWS):
                hidden.open()
                with torch.enable_grad():
                    outputs = objective.forward(learner.model, batch)
                    answers = hidden.take()
                    norms = objective.squared_norms(outputs, batch)
                    found = torch.autograd.grad(norms.sum(), answers)
                torch._foreach_add_(sums, [_summed(g).abs().sum(0) for g in found])
        return [total / len(table) for total in sums]


class Locality(nn.Module):
    """w_ij: how strongly the units of a layer inhibit each other by their distance; none itself.

    It follows from the arguments, and is no part of a state.

    Args:
        units: Of the layer.
        scale: How many deviations of the Gaussian the layer is wide; None: all pairs alike.

    Example:
        >>> Locality(3, None).weight.tolist()
        [[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
    """

    weight: Float[Tensor, "units units"]

    def __init__(self, units: int, scale: float | None) -> None:
        super().__init__()
        place = torch.arange(units, dtype=torch.float32)
        distance = place[:, None] - place
        near = torch.ones_like(distance)
        if scale is not None:
            near = torch.exp(-(distance**2) / (2 * (units / scale) ** 2))
        self.register_buffer("weight", near.fill_diagonal_(0.0), persistent=False)


def inhibition(
    answers: Float[Tensor, "examples units"],
    near: Float[Tensor, "units units"],
    importance: Float[Tensor, " units"] | None,
) -> Float[Tensor, ""]:
    """The penalty of one layer: how much units near one another answer together."""
    if importance is not None:
        answers = answers * torch.exp(-importance)
    together = answers.T @ answers / len(answers)
    return (together.abs() * near).sum()


def _by_unit(answers: Tensor) -> Float[Tensor, "examples units"]:
    """One number a unit: of a map, its mean."""
    return answers.flatten(2).mean(2) if answers.dim() > 2 else answers


def _summed(gradient: Tensor) -> Float[Tensor, "examples units"]:
    """The gradient by a unit's answer: of a map, by a shift of all of it."""
    return gradient.flatten(2).sum(2) if gradient.dim() > 2 else gradient


def _key(place: int) -> str:
    return f"importance_{place}"
