"""PackNet: several tasks in one network, each in weights that pruning freed for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from holdfast.data import Batch
from holdfast.errors import UsageError, above_zero, at_least
from holdfast.memory.parameters import ParameterStore
from holdfast.method import Method, Phase, Tags
from holdfast.methods.isolation.rows import refusal_of_head
from holdfast.models.heads import class_rows
from holdfast.models.norms import fix_statistics
from holdfast.optim.masked import MaskedUpdates

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream


class PackNet(Method):
    """PackNet: train the free weights, prune most of them, retrain the rest, and freeze those.

        begin    owner_i <- t  for every weight i that is free (owner 0)
        train    theta_i with owner_i = t moves; the others take part as they are
        turn     in every layer, owner_i <- 0 and theta_i <- 0 for all but the share `keep` of the
                 weights with owner_i = t that are largest in magnitude
        retrain  theta_i with owner_i = t, at a tenth of the learning rate
        use      for task t: theta_i [1 <= owner_i <= t]

    with tasks counted from 1. A layer is the weight of a linear or convolutional layer outside the
    head. The head is not pruned: its rows belong to the task of their class. All else (biases,
    scales, shifts and statistics of batch normalisation) stays as it is after the first
    experience. So no answer to an earlier task ever changes, by a bit, under any optimizer.

    Args:
        keep: Share of the free weights of each layer that a task keeps, above 0 and at most 1;
            None: an equal share of the whole for every experience of the stream.
        retrain_epochs: Epochs after pruning; None: half as many as before it, rounded up.
        retrain_rate: Factor on the learning rate after pruning.

    Raises:
        UsageError: If an argument is out of range.

    Differs from the paper: it begins with a network trained on ImageNet, which gets the first
    part of the weights; here the first experience does. Such a network can be had as a first
    experience of zero epochs.
    """

    tags = Tags(
        family="isolation",
        title="PackNet: adding multiple tasks to a single network by iterative pruning",
        source="Mallya and Lazebnik, 2018",
        scenarios=frozenset({"task"}),
        needs=frozenset({"features", "boundaries"}),
        keeps=frozenset({"parameters"}),
    )
    works_inside = True
    chooses_weights = True

    def __init__(
        self,
        keep: float | None = 0.25,
        retrain_epochs: int | None = None,
        retrain_rate: float = 0.1,
    ) -> None:
        super().__init__()
        at_least(0, retrain_epochs=retrain_epochs)
        if keep is not None and not 0 < keep <= 1:
            raise UsageError(f"keep must be above 0 and at most 1, or none; given: {keep}.")
        above_zero(retrain_rate=retrain_rate)
        self.keep, self.retrain_epochs, self.retrain_rate = keep, retrain_epochs, retrain_rate
        self.owners = ParameterStore()
        self._names: list[str] = []  # of the layers
        self._updates: MaskedUpdates | None = None

    def setup(self, learner: Learner) -> None:
        assert learner.stream is not None
        kind = torch.uint8 if len(learner.stream) < 256 else torch.int16
        layers = _layers(learner.model)
        self._names = [name for name, _ in layers]
        self.owners.put((name, torch.zeros_like(weight, dtype=kind)) for name, weight in layers)

    def expand(self, learner: Learner, experience: Experience) -> None:
        if not experience.index:
            return
        shared = {*self._names, *_of_head(learner.model)}
        for name, parameter in learner.model.named_parameters():
            if name not in shared:
                parameter.requires_grad_(False)
        fix_statistics(learner.model)

    def begin(self, learner: Learner, experience: Experience) -> None:
        for _, _, owner in self.layers(learner):
            owner.masked_fill_(owner == 0, experience.index + 1)
        self._updates = None

    def phases(self, learner: Learner) -> Sequence[Phase]:
        again = self.retrain_epochs
        if again is None:
            again = -(-(learner.experience.epochs or learner.epochs) // 2)
        return [Phase(), Phase(epochs=again, rate=self.retrain_rate)]

    @torch.no_grad()
    def turn(self, learner: Learner) -> None:
        for _, weight, owner in self.layers(learner):
            mine = (owner == learner.index + 1).flatten().nonzero().squeeze(1)
            kept = self._kept(len(mine), learner)
            order = weight.flatten()[mine].abs().argsort(descending=True, stable=True)
            freed = torch.zeros(owner.numel(), dtype=torch.bool, device=owner.device)
            freed[mine[order[kept:]]] = True
            owner.masked_fill_(freed.view(owner.shape), 0)
            weight.masked_fill_(freed.view(owner.shape), 0.0)
        self._updates = None

    def gradients(self, learner: Learner) -> None:
        if self._updates is None:  # not in `begin`, which a resumed experience has behind it
            self._updates = MaskedUpdates(self._masks(learner), freeze_state=False)
        self._updates.before(learner.optimizer)

    def step(self, learner: Learner) -> None:
        assert self._updates is not None
        self._updates.after(learner.optimizer)

    def end(self, learner: Learner, experience: Experience) -> None:
        self._updates = None
        owners = [owner for _, _, owner in self.layers(learner)]
        free = sum(int((owner == 0).sum()) for owner in owners)
        learner.note(free_weights=free / sum(owner.numel() for owner in owners))

    def release(self, learner: Learner) -> None:
        self._updates = None

    def answer(self, learner: Learner, batch: Batch) -> Tensor:
        if learner.model.training:
            return learner.objective.forward(learner.model, batch)
        tasks = batch["task"]
        present = tasks.unique().tolist()
        if len(present) == 1:
            return self.outputs(learner, batch, present[0])
        rows = [(tasks == task).nonzero().squeeze(1) for task in present]
        parts = [
            self.outputs(learner, {name: column[of] for name, column in batch.items()}, task)
            for task, of in zip(present, rows, strict=True)
        ]
        return torch.cat(parts)[torch.cat(rows).argsort()]

    def outputs(self, learner: Learner, batch: Batch, task: int) -> Tensor:
        """The outputs of the network of one task, all of whose rows the batch holds."""
        if task >= learner.index:  # what is pruned is zero already
            return learner.objective.forward(learner.model, batch)
        weights = {
            name: torch.where((owner > 0) & (owner <= task + 1), weight, 0.0)
            for name, weight, owner in self.layers(learner)
        }

        def network(*inputs: Any) -> Any:
            return functional_call(learner.model, weights, inputs)

        return learner.objective.forward(network, batch)

    def layers(self, learner: Learner) -> Iterator[tuple[str, nn.Parameter, Tensor]]:
        """Name and weight of every layer, and to whom each entry belongs: 0, or the task's place
        in the stream, from 1."""
        named = [(name, learner.model.get_parameter(name)) for name in self._names]
        for (name, weight), owner in zip(named, self.owners.get(named), strict=True):
            yield name, weight, owner

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        reason = super().refusal(stream, model) or refusal_of_head("PackNet", stream, model)
        if reason is None and not _layers(model):
            return (
                "PackNet shares out the weights of a backbone's linear and convolutional layers, "
                f"and {type(model).__name__} has none that is trained."
            )
        return reason

    # Inside.

    def _kept(self, free: int, learner: Learner) -> int:
        """How many of the free weights of a layer the task at hand keeps: one at least."""
        assert learner.stream is not None
        share = self.keep or 1 / (len(learner.stream) - learner.index)
        return max(round(share * free), 1)

    def _masks(self, learner: Learner) -> list[tuple[nn.Parameter, Tensor]]:
        mine = [(weight, owner == learner.index + 1) for _, weight, owner in self.layers(learner)]
        if learner.index:
            mine += class_rows(learner.model.head, learner.experience.classes)
        return [(parameter, mask) for parameter, mask in mine if not bool(mask.all())]


def _of_head(model: nn.Module) -> list[str]:
    head: nn.Module = model.head  # type: ignore[assignment]
    return [f"head.{name}" for name, _ in head.named_parameters()]


def _layers(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Weights of linear and convolutional layers outside the head, where they are trained."""
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    inside = [f"{name}.weight" for name, part in model.named_modules() if isinstance(part, kinds)]
    named = [(name, model.get_parameter(name)) for name in inside]
    head = set(_of_head(model))
    return [(name, weight) for name, weight in named if weight.requires_grad and name not in head]
