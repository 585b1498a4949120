"""Gradient projection memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from holdfast.data import Batch
from holdfast.errors import UsageError, at_least
from holdfast.method import Method, Tags
from holdfast.models.heads import CosineHead, GrowingHead, MultiHead
from holdfast.optim.layer_inputs import layer_inputs, weighing
from holdfast.optim.masked import MaskedUpdates
from holdfast.optim.projected import ProjectedUpdates, steps_are_sums
from holdfast.optim.subspaces import Subspaces

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream


class GPM(Method):
    """GPM: learn in directions that no earlier experience has put to use.

    The gradient of a layer's loss by its weight W is made of the inputs x of the layer. At the end
    of an experience the directions that matter among them are added to a basis M of the layer, by
    the singular values s of what M does not hold yet of the inputs R of some examples, R - MM'R:

        the fewest with |MM'R|^2 + s_1^2 + ... + s_k^2 >= threshold |R|^2.

    Later experiences leave what a layer answers in these directions as it is:

        dL/dW <- dL/dW - dL/dW MM'.

    A convolution's inputs are its patches. Biases and normalisation, scales, shifts and statistics,
    are learned in the first experience and fixed after it. Where tasks are known and share no
    class, the rows of `model.head` are a head a task: those of the task at hand are trained freely,
    others not at all. Any other head is a layer like the others.

    With momentum kept from before, Adam or weight decay, a weight moves in other directions than
    its gradient. There the movement is projected as well, after the optimizer's step.

    Args:
        threshold: Share of the energy of a layer's inputs that is held, above 0 and at most 1.
        growth: Added to it in every further experience, up to 1.
        first_threshold: Of the first layer, whose inputs are the data; None: as the others.
        examples: Of an experience, drawn at its end, whose inputs are looked at; fewer in layers
            where these make more than 20000 patches.

    Differs from the paper: normalisation over a batch goes by the statistics of the first
    experience and not by those of each batch, also at test, so that what is held is held for every
    batch. The smallest number of directions that reaches the threshold is kept; the authors' code
    keeps one less in the first experience.

    Example:
        >>> GPM(threshold=0.99, first_threshold=0.95, growth=0.0).examples
        300
    """

    tags = Tags(
        family="projection",
        title="Gradient projection memory for continual learning",
        source="Saha et al., 2021",
        needs=frozenset({"boundaries"}),
        keeps=frozenset({"parameters"}),
    )
    works_inside = True
    chooses_weights = True

    def __init__(
        self,
        threshold: float = 0.97,
        growth: float = 0.003,
        first_threshold: float | None = None,
        examples: int = 300,
    ) -> None:
        super().__init__()
        at_least(1, examples=examples)
        for name, given in (("threshold", threshold), ("first_threshold", first_threshold)):
            if given is not None and not 0 < given <= 1:
                raise UsageError(f"{name} must be above 0 and at most 1; given: {given}.")
        if not 0 <= growth <= 1:
            raise UsageError(f"growth must lie between 0 and 1; given: {growth}.")
        self.threshold, self.growth = threshold, growth
        self.first_threshold, self.examples = first_threshold, examples
        self.spaces = Subspaces()
        self._given: frozenset[str] = frozenset()  # names of what is not trained in any case
        self._layers: dict[str, Any] = {}
        self._norms: list[nn.Module] = []
        self._updates: ProjectedUpdates | None = None
        self._rows: MaskedUpdates | None = None
        self._guarded = True

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        layers = weighing(model)
        grouped = [n for n, layer in layers.items() if getattr(layer, "groups", 1) > 1]
        if grouped:
            return (
                "GPM keeps one subspace a layer, and the groups of a grouped convolution "
                f"({grouped[0]}) have one each: give a model without."
            )
        if not layers:
            return (
                "GPM projects gradients of linear layers and convolutions over images, and "
                f"{type(model).__name__} has neither."
            )
        if isinstance(getattr(model, "head", None), CosineHead):
            return (
                "GPM leaves the products of weights and inputs as they are, which a cosine head "
                "divides by the length of the weights: accepted are full, growing and multi."
            )
        return super().refusal(stream, model)

    def setup(self, learner: Learner) -> None:
        frozen = (n for n, p in learner.model.named_parameters() if not p.requires_grad)
        self._given = frozenset(frozen)

    def expand(self, learner: Learner, experience: Experience) -> None:
        model = learner.model
        self._layers, self._updates, self._rows = weighing(model), None, None
        self._norms = [part for part in model.modules() if isinstance(part, _BatchNorm)]
        trained = {f"{name}.weight" for name in self._layers}
        if self._separate(learner):
            own = {name for name in self._layers if f"{name}.".startswith("head.")}
            self._layers = {n: part for n, part in self._layers.items() if n not in own}
            trained = {f"{name}.weight" for name in self._layers} | self._of_task(model, experience)
        elif not experience.index:
            return
        for name, parameter in model.named_parameters():
            free = name in trained or not (experience.index or name.startswith("head."))
            parameter.requires_grad_(free and name not in self._given)

    def _separate(self, learner: Learner) -> bool:
        """Whether every task has rows of the head to itself."""
        stream: Stream | None = learner.stream
        assert stream is not None
        together = sum(len(experience.classes) for experience in stream)
        head = getattr(learner.model, "head", None)
        return (
            stream.scenario == "task"
            and together == len(stream.seen_until(len(stream) - 1))
            and isinstance(head, nn.Linear | GrowingHead | MultiHead)
        )

    def _of_task(self, model: nn.Module, experience: Experience) -> set[str]:
        """Names of a task's own part of the head; of one matrix for all tasks, other rows rest."""
        head = model.head
        if isinstance(head, MultiHead):
            prefix = f"head.heads.{experience.index}."
            return {name for name, _ in model.named_parameters() if name.startswith(prefix)}
        assert isinstance(head, nn.Linear | GrowingHead)
        rows = torch.zeros(len(head.weight), dtype=torch.bool, device=head.weight.device)
        rows[list(experience.classes)] = True
        own = dict(head.named_parameters())
        self._rows = MaskedUpdates([(p, rows.view(-1, *[1] * (p.dim() - 1))) for p in own.values()])
        return {f"head.{name}" for name in own}

    def batch(self, learner: Learner, batch: Batch) -> Batch:
        if learner.index and self._norms and self._norms[0].training:
            for norm in self._norms:
                norm.eval()
        return batch

    def gradients(self, learner: Learner) -> None:
        if self._updates is None:
            self._prepare(learner)
        assert self._updates is not None
        if self._guarded:
            self._updates.before()
            if self._rows is not None:
                self._rows.before(learner.optimizer)
        else:
            self._updates.project_gradients()
            if self._rows is not None:
                self._rows.mask_gradients()

    def _prepare(self, learner: Learner) -> None:
        """The projections of an experience, and whether its movements are to be projected too."""
        held = ((layer.weight, self.spaces.basis(name)) for name, layer in self._layers.items())
        self._updates = ProjectedUpdates([(w, m) for w, m in held if m is not None])
        parts = list(learner.method.parts())
        later = parts[parts.index(self) + 1 :]
        changed = any(part.overrides("gradients") for part in later)
        fresh = learner.optimizer_state == "reset"
        self._guarded = changed or not (fresh and steps_are_sums(learner.optimizer))

    def step(self, learner: Learner) -> None:
        if self._guarded and self._updates is not None:
            self._updates.after()
            if self._rows is not None:
                self._rows.after(learner.optimizer)

    def end(self, learner: Learner, experience: Experience) -> None:
        if learner.last:
            return
        table = experience.train
        drawn = torch.randperm(len(table), generator=learner.generator, device=learner.device)
        table = table.take(drawn[: self.examples].to(table.device))
        first = next(iter(weighing(learner.model)))
        for name, columns in layer_inputs(learner, table, self._layers).items():
            held = self.threshold
            if name == first and self.first_threshold is not None:
                held = self.first_threshold
            self.spaces.extend(name, columns, min(1.0, held + self.growth * experience.index))
        learner.note(gpm_ranks={name: list(of) for name, of in self.spaces.ranks.items()})
